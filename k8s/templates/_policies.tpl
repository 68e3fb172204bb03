{{/* PDB, autoscaler and network policy of a role: (dict "root" $ "component" NAME "kind" "StatefulSet"). */}}

{{- define "caracal.pdb" -}}
{{- $role := fromYaml (include "caracal.role" .) }}
{{- if $role.pdb.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "caracal.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ $role.pdb.maxUnavailable }}
  {{- /* A pod that is not ready must not block the drain of its node. */}}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "caracal.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "caracal.autoscaler" -}}
{{- $scale := (fromYaml (include "caracal.role" .)).autoscaling }}
{{- if and $scale.enabled (eq $scale.kind "hpa") }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "caracal.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: {{ .kind }}, name: {{ include "caracal.component" . }}}
  minReplicas: {{ int $scale.minReplicas }}
  maxReplicas: {{ int $scale.maxReplicas }}
  metrics:
    {{- if $scale.metric }}
    - type: Pods
      pods:
        metric: {name: {{ $scale.metric | replace ":" "_" }}}
        target: {type: AverageValue, averageValue: {{ include "caracal.scaleTarget" $scale | quote }}}
    {{- else }}
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ int $scale.target }}}
    {{- end }}
  {{- include "caracal.scaleDown" $scale | nindent 2 }}
{{- else if $scale.enabled }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "caracal.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: {{ .kind }}, name: {{ include "caracal.component" . }}}
  minReplicaCount: {{ int $scale.minReplicas }}
  maxReplicaCount: {{ int $scale.maxReplicas }}
  {{- if not (int $scale.minReplicas) }}
  {{- /* KEDA looks each 30 s else, and a first request would wait for that. */}}
  pollingInterval: 5
  {{- end }}
  cooldownPeriod: {{ int $scale.scaleDownStabilizationSeconds }}
  advanced:
    horizontalPodAutoscalerConfig:
      {{- include "caracal.scaleDown" $scale | nindent 6 }}
  {{- if or $scale.metric $scale.query $scale.queueTarget }}
  {{- /* Without Prometheus there are as many pods as there were. */}}
  fallback: {failureThreshold: 3, replicas: {{ max 1 (int $scale.minReplicas) }}, behavior: currentReplicasIfHigher}
  {{- end }}
  triggers:
    {{- if or $scale.metric $scale.query }}
    - type: prometheus
      metadata:
        serverAddress: {{ $scale.prometheusAddress }}
        query: {{ $scale.query | default (printf "sum(%s{namespace=%q,pod=~\"%s-.+\"})" $scale.metric .root.Release.Namespace (include "caracal.component" .)) | squote }}
        threshold: {{ include "caracal.scaleTarget" $scale | quote }}
        {{- if not $scale.query }}
        ignoreNullValues: "false"
        {{- end }}
    {{- else }}
    - type: cpu
      metricType: Utilization
      metadata: {value: {{ int $scale.target | quote }}}
    {{- end }}
    {{- with $scale.queueTarget }}
    - type: prometheus
      metadata:
        serverAddress: {{ $scale.prometheusAddress }}
        query: {{ printf "sum(caracal:num_requests_waiting{namespace=%q,pod=~\"%s-.+\"})" $.root.Release.Namespace (include "caracal.component" (dict "root" $.root "component" "router")) | squote }}
        threshold: {{ . | quote }}
        ignoreNullValues: "false"
    {{- end }}
{{- end }}
{{- end }}

{{- define "caracal.scaleDown" -}}
behavior:
  scaleDown:
    stabilizationWindowSeconds: {{ int .scaleDownStabilizationSeconds }}
    policies:
      - {type: Pods, value: 1, periodSeconds: 60}
{{- end }}

{{/* Metrics that end in _perc are between 0 and 1, their targets in %. */}}
{{- define "caracal.scaleTarget" -}}
{{- if and (hasSuffix "_perc" .metric) (not .query) }}{{ divf (float64 .target) 100 }}{{ else }}{{ .target }}{{ end }}
{{- end }}

{{/* (dict ... "ingress" (list RULE ...) "egress" (list RULE ...)), a RULE being (dict "peers" (list COMPONENT ...) "ports" (list N ...)). */}}
{{- define "caracal.networkPolicy" -}}
{{- if .root.Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "caracal.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "caracal.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- range .ingress }}
    {{- include "caracal.networkRule" (dict "direction" "from" "rule" . "root" $.root) | nindent 4 }}
    {{- else }} []
    {{- end }}
  egress:
    {{- range .egress }}
    {{- include "caracal.networkRule" (dict "direction" "to" "rule" . "root" $.root) | nindent 4 }}
    {{- else }} []
    {{- end }}
{{- end }}
{{- end }}

{{- define "caracal.networkRule" -}}
{{- $peers := .rule.raw | default list }}
{{- range .rule.peers }}
{{- $labels := fromYaml (include "caracal.selector" (dict "root" $.root "component" .)) }}
{{- $peers = append $peers (dict "podSelector" (dict "matchLabels" $labels)) }}
{{- end }}
{{- $ports := list }}
{{- range .rule.ports }}{{ $ports = append $ports (dict "protocol" "TCP" "port" (int .)) }}{{ end }}
{{- $rule := dict }}
{{- with $peers }}{{ $_ := set $rule $.direction . }}{{ end }}
{{- with $ports }}{{ $_ := set $rule "ports" . }}{{ end }}
{{- toYaml (list $rule) }}
{{- end }}

{{/* Not empty when attention and expert pods may reach every port of each other: RDMA and P2P groups use ports that are not known beforehand. */}}
{{- define "caracal.openPorts" -}}
{{- if or .Values.rdma.enabled (and (eq .Values.link.kind "nccl") .Values.link.openPorts) }}yes{{ end }}
{{- end }}

{{/* Ports of expert pods to which attention pods connect, when not all are open. */}}
{{- define "caracal.linkPorts" -}}
{{- $ports := list (int .Values.expert.port) }}
{{- if has .Values.link.kind (list "native" "") }}{{ $ports = append $ports (int .Values.link.nativePort) }}{{ end }}
{{- toJson $ports }}
{{- end }}

{{/* Port of the collector of traces. */}}
{{- define "caracal.collectorPort" -}}
{{- $url := urlParse .Values.tracing.endpoint }}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) }}
{{- end }}

{{/* Port of a Redis of one's own, externalRedis or nextRedis: its port, else its URL's, else 6379. */}}
{{- define "caracal.ownRedisPort" -}}
{{- $host := regexReplaceAll "^[a-z+]+://([^/]*@)?([^/?#]*).*$" .url "${2}" }}
{{- if contains "+sentinel://" .url }}{{ $host = "" }}{{ end }}
{{- int .port | default (regexFind ":[0-9]+$" $host | trimPrefix ":" | default "6379" | int) }}
{{- end }}

{{/* Egress rules to Redis, the chart's or one's own, and to the next one, as an array. */}}
{{- define "caracal.redisEgress" -}}
{{- $rules := list }}
{{- if .Values.redis.enabled }}
{{- $rules = append $rules (dict "peers" (list "redis") "ports" (list (int .Values.redis.port))) }}
{{- end }}
{{- range $own := list .Values.externalRedis .Values.nextRedis }}
{{- if or $own.url $own.existingSecret }}
{{- $raw := list }}
{{- range $own.cidrs }}{{ $raw = append $raw (dict "ipBlock" (dict "cidr" .)) }}{{ end }}
{{- $ports := list (include "caracal.ownRedisPort" $own | int) }}
{{- with int $own.sentinelPort }}{{ $ports = append $ports . }}{{ end }}
{{- $rules = append $rules (dict "raw" $raw "ports" $ports) }}
{{- end }}
{{- end }}
{{- toYaml $rules }}
{{- end }}
