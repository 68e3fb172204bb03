{{/* Names, labels, images. `component` is router, attention, expert, redis or test. */}}

{{- define "caracal.name" -}}
{{- .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{- define "caracal.fullname" -}}
{{- $name := include "caracal.name" . }}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- $full := .Values.fullnameOverride | default $both }}
{{- /* The hash keeps releases apart whose names are equal once truncated. */}}
{{- if gt (len $full) 40 }}
{{- $full = printf "%s-%s" (trunc 33 $full | trimSuffix "-") (sha256sum $full | trunc 6) }}
{{- end }}
{{- if not (regexMatch "^[a-z][-a-z0-9]*[a-z0-9]$" $full) }}
{{- fail (printf "%s-router and so on are no valid Service names: use only a-z, 0-9 and -, and begin with a letter. Choose another release name, or set fullnameOverride." $full) }}
{{- end }}
{{- $full }}
{{- end }}

{{/* (dict "root" $ "component" "expert") -> caracal-expert */}}
{{- define "caracal.component" -}}
{{- printf "%s-%s" (include "caracal.fullname" .root) .component }}
{{- end }}

{{/* The Secret with the cluster key; empty without one. */}}
{{- define "caracal.clusterKeySecret" -}}
{{- if .Values.clusterKey.enabled }}
{{- .Values.clusterKey.existingSecret | default (printf "%s-cluster-key" (include "caracal.fullname" .)) }}
{{- end }}
{{- end }}

{{/* Labels for selectors, which are immutable: never change them. */}}
{{- define "caracal.selector" -}}
app.kubernetes.io/name: {{ include "caracal.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "caracal.labels" -}}
{{- $own := fromYaml (include "caracal.selector" .) }}
{{- $_ := set $own "app.kubernetes.io/part-of" "caracal" }}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_")) }}
{{- toYaml (merge $own .root.Values.commonLabels) }}
{{- end }}

{{/* metadata of an object: (dict "root" $ "component" "expert" ["name" ...] ["annotations" map] ["labels" map]) */}}
{{- define "caracal.metadata" -}}
{{- $annotations := merge (dict) (.annotations | default dict) .root.Values.commonAnnotations -}}
name: {{ .name | default (include "caracal.component" .) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "caracal.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same for a cluster-scoped object. */}}
{{- define "caracal.clusterMetadata" -}}
{{- omit (fromYaml (include "caracal.metadata" .)) "namespace" | toYaml }}
{{- end }}

{{/* registry/repository:tag or @digest of a role: its own image merged over the common one, key by key. */}}
{{- define "caracal.image" -}}
{{- $image := deepCopy .root.Values.image }}
{{- range $key, $value := .image }}{{ $_ := set $image $key $value }}{{ end }}
{{- $where := ternary (printf "%s/%s" $image.registry $image.repository) $image.repository (ne $image.registry "") }}
{{- if $image.digest }}
{{- printf "%s@%s" $where $image.digest }}
{{- else }}
{{- printf "%s:%s" $where ($image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "caracal.serviceAccount" -}}
{{- $account := .Values.serviceAccount }}
{{- $account.name | default (ternary (include "caracal.fullname" .) "default" $account.create) }}
{{- end }}

{{/* Only routers may write Events, with an account of their own; a given serviceAccountName takes precedence. */}}
{{- define "caracal.routerAccount" -}}
{{- $role := fromYaml (include "caracal.role" (dict "root" . "component" "router")) }}
{{- $own := and .Values.events.enabled .Values.serviceAccount.create }}
{{- $role.serviceAccountName | default (ternary (include "caracal.component" (dict "root" . "component" "router")) (include "caracal.serviceAccount" .) $own) }}
{{- end }}

{{/* Whether routers write Events: never as "default", because every other pod of the namespace would get the same rights. */}}
{{- define "caracal.events" -}}
{{- if and .Values.events.enabled (ne (include "caracal.routerAccount" .) "default") }}yes{{ end }}
{{- end }}

{{- define "caracal.tlsSecret" -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "caracal.fullname" .)) }}
{{- end }}
