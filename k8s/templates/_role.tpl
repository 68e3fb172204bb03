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
`replicas` of a role. A number set by `kubectl scale` is kept unless the number in the values has changed since the last
install; an autoscaler's number is always kept (without the field, Kubernetes would reset it to 1 once). Without a cluster
(helm template) the number is the values', and an autoscaled role has none.
*/}}
{{- define "caracal.replicas" -}}
{{- $live := lookup "apps/v1" .kind .root.Release.Namespace (include "caracal.component" .) | default dict }}
{{- $exists := hasKey ($live.spec | default dict) "replicas" }}
{{- $installed := dig "metadata" "annotations" "caracal/values-replicas" "" $live }}
{{- if and $exists (or .role.autoscaling.enabled (eq $installed (int .role.replicas | toString))) }}
replicas: {{ int $live.spec.replicas }}
{{- else if not .role.autoscaling.enabled }}
replicas: {{ int .role.replicas }}
{{- end }}
{{- end }}

{{- define "caracal.spread" -}}
{{- with .role.topologySpreadConstraints }}
{{- toYaml . }}
{{- else }}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "caracal.selector" $ | nindent 6 }}
  matchLabelKeys: [{{ $.revisionLabel }}]
{{- end }}
{{- end }}
{{- end }}
