{{/* A role's values: `pod`, overridden by the role's own. Maps are merged key by key, everything else is replaced. Use through fromYaml. */}}
{{- define "caracal.role" -}}
{{- $role := deepCopy .root.Values.pod }}
{{- range $key, $value := index .root.Values .component }}
{{-   $base := index $role $key }}
{{-   if and (kindIs "map" $value) (kindIs "map" $base) }}
{{-     range $inner, $innerValue := $value }}{{ $_ := set $base $inner $innerValue }}{{ end }}
{{-   else if not (kindIs "invalid" $value) }}
{{-     $_ := set $role $key $value }}
{{-   end }}
{{- end }}
{{- toYaml $role }}
{{- end }}

{{/* terminationGracePeriodSeconds of a role. */}}
{{- define "caracal.grace" -}}
{{- $drain := .role.drain }}
{{- $least := add (int $drain.preStopSeconds) (int $drain.timeoutSeconds) }}
{{- $grace := int $drain.gracePeriodSeconds | default (add $least 15) }}
{{- if le (int $grace) (int $least) }}
{{- fail (printf "%s.drain.gracePeriodSeconds is %d, but preStopSeconds + timeoutSeconds is %d: the pod would be killed while it drains. Raise it, or set it to 0 to have it computed." .component (int $grace) (int $least)) }}
{{- end }}
{{- $grace }}
{{- end }}

{{/*
`replicas` of a role: rendered when the values own it. Else whoever scales does, and no manifest may have the field: an upgrade or
a rollback would bring its number back, or fail. A release whose earlier manifests had it keeps it, with the live number: left
out, it would become 1.
*/}}
{{- define "caracal.replicas" -}}
{{- $live := lookup "apps/v1" .kind .root.Release.Namespace (include "caracal.component" .) | default dict }}
{{- if and .role.replicas (not .role.autoscaling.enabled) }}
{{- int .role.replicas }}
{{- else if and (hasKey ($live.spec | default dict) "replicas") (dig "metadata" "annotations" "caracal/values-replicas" "" $live) }}
{{- int $live.spec.replicas }}
{{- end }}
{{- end }}

{{/* Metadata of a role's workload. The annotation says that its manifest has `replicas`. */}}
{{- define "caracal.workloadMetadata" -}}
{{- $mark := dict }}
{{- with include "caracal.replicas" . }}{{ $mark = dict "caracal/values-replicas" . }}{{ end }}
{{- include "caracal.metadata" (merge (dict "annotations" $mark) .) }}
{{- end }}

{{/* Pods that a role has or will have: (dict "root" $ "component" NAME "kind" "StatefulSet" "role" ROLE). */}}
{{- define "caracal.pods" -}}
{{- $live := lookup "apps/v1" .kind .root.Release.Namespace (include "caracal.component" .) | default dict }}
{{- if .role.autoscaling.enabled }}{{ int .role.autoscaling.minReplicas }}
{{- else if .role.replicas }}{{ int .role.replicas }}
{{- else }}{{ max (int .role.initialReplicas) (int (dig "spec" "replicas" 0 $live)) }}
{{- end }}
{{- end }}

{{/* The value that decides about it, for messages. */}}
{{- define "caracal.podsKey" -}}
{{- printf "%s.%s" .component (ternary "autoscaling.minReplicas" (ternary "replicas" "initialReplicas" (not (not .role.replicas))) .role.autoscaling.enabled) }}
{{- end }}

{{- define "caracal.spread" -}}
{{- with .role.topologySpreadConstraints }}
{{- toYaml . }}
{{- else }}
{{- /* Not by zone: the scheduler leaves nodes without one of the labels out of the score of all constraints. */}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "caracal.selector" $ | nindent 6 }}
  matchLabelKeys: [{{ $.revisionLabel }}]
{{- end }}
{{- end }}

{{/* By zone where nodes have one: to a node without a zone this says nothing. */}}
{{- define "caracal.affinity" -}}
{{- with .role.affinity }}
{{- toYaml . }}
{{- else }}
{{- if not .role.topologySpreadConstraints }}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: topology.kubernetes.io/zone
        labelSelector:
          matchLabels:
            {{- include "caracal.selector" . | nindent 12 }}
        matchLabelKeys: [{{ .revisionLabel }}]
{{- end }}
{{- end }}
{{- end }}
