{{/* Environment of the services. The names are the fields of their settings classes (compared by tests/chart/test_environment.py). */}}

{{- define "caracal.redisUrl" -}}
{{- $url := .Values.externalRedis }}
{{- if .Values.redis.enabled }}
{{- if .Values.redis.existingSecret }}
- name: CARACAL_REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: {{ .Values.redis.secretKey }}}
{{- end }}
- {name: CARACAL_REDIS_URL, value: "redis://{{ include "caracal.fullname" . }}-redis:{{ int .Values.redis.port }}/0"}
{{- else if $url.existingSecret }}
- name: CARACAL_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ $url.existingSecret }}, key: {{ $url.secretKey }}}
{{- else }}
- {name: CARACAL_REDIS_URL, value: {{ $url.url | quote }}}
{{- end }}
{{- with .Values.nextRedis }}
{{- if .existingSecret }}
- name: CARACAL_REDIS_NEXT_URL
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .secretKey }}}
{{- else if .url }}
- {name: CARACAL_REDIS_NEXT_URL, value: {{ .url | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Not empty when there are authorities besides those of the image. */}}
{{- define "caracal.caBundle" -}}
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}yes{{ end }}
{{- end }}

{{- define "caracal.caVolume" -}}
{{- $ca := .Values.caBundle }}
{{- $items := list (dict "key" $ca.key "path" "ca.crt") }}
{{- $source := ternary (dict "configMap" (dict "name" $ca.configMap "items" $items)) (dict "secret" (dict "secretName" $ca.secret "items" $items)) (ne $ca.configMap "") }}
{{- toYaml (list (merge (dict "name" "ca") $source)) }}
{{- end }}

{{- define "caracal.env.logLevel" -}}
{{- with .Values.logLevel }}
- {name: CARACAL_LOG_LEVEL, value: {{ . }}}
{{- end }}
{{- end }}

{{/* Variables of routers, attention and expert workers. */}}
{{- define "caracal.env.common" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: HOME, value: /tmp}
{{- include "caracal.redisUrl" .root }}
{{- include "caracal.env.logLevel" .root }}
{{- if include "caracal.caBundle" .root }}
- {name: CARACAL_REDIS_CA, value: /etc/caracal/ca/ca.crt}
{{- end }}
- {name: CARACAL_CLUSTER, value: {{ include "caracal.cluster" .root | quote }}}
- {name: CARACAL_MODEL, value: {{ include "caracal.modelPath" .root | quote }}}
- {name: CARACAL_ADVERTISE_HOST, value: $(POD_IP)}
- {name: CARACAL_WORKER_ID, value: $(POD_NAME)}
{{- if .root.Values.clusterKey.enabled }}
- {name: CARACAL_CLUSTER_KEY_FILE, value: /etc/caracal/cluster-key/{{ .root.Values.clusterKey.secretKey }}}
{{- end }}
{{- if include "caracal.mtls" .root }}
{{ include "caracal.env.mtls" . }}
{{- end }}
{{- include "caracal.env.tracing" .root }}
{{- end }}

{{/* OpenTelemetry's own variables; none of them, and tracing is off. */}}
{{- define "caracal.env.tracing" -}}
{{- with .Values.tracing }}
{{- if .endpoint }}
{{- $attributes := list "k8s.pod.name=$(POD_NAME)" (printf "k8s.namespace.name=%s" $.Release.Namespace) }}
{{- range $name, $value := .resourceAttributes }}{{ $attributes = append $attributes (printf "%s=%s" $name $value) }}{{ end }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol }}}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .samplerRatio | quote }}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ join "," $attributes | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables of both kinds of worker, which listen on the pod's address only. */}}
{{- define "caracal.env.worker" -}}
{{- $gpus := and (or (int .role.accelerator.count) .role.resourceClaims) (hasPrefix "nvidia.com/" .role.accelerator.resourceName) }}
{{- with .role.device | default (ternary "cuda" "" (not (not $gpus))) }}
- {name: CARACAL_DEVICE, value: {{ . | quote }}}
{{- end }}
- {name: CARACAL_HOST, value: $(POD_IP)}
- {name: CARACAL_PORT, value: {{ int .role.port | quote }}}
- {name: CARACAL_METRICS_PORT, value: {{ int .role.metricsPort | quote }}}
- {name: CARACAL_DRAIN_TIMEOUT_S, value: {{ int .role.drain.timeoutSeconds | quote }}}
{{- with .root.Values.model.dtype }}
- {name: CARACAL_DTYPE, value: {{ . }}}
{{- end }}
{{- if and .root.Values.link.allowPlainP2p (include "caracal.mtls" .root) }}
- {name: CARACAL_ALLOW_PLAIN_P2P, value: "1"}
{{- end }}
{{- with .root.Values.link.dispatchDtype }}
- {name: CARACAL_DISPATCH_DTYPE, value: {{ . }}}
{{- end }}
{{- with .root.Values.model.kvDtype }}
- {name: CARACAL_KV_DTYPE, value: {{ . }}}
{{- end }}
{{- if int .role.threads }}
- {name: CARACAL_THREADS, value: {{ int .role.threads | quote }}}
{{- else if dig "limits" "cpu" "" .role.resources }}
- name: CARACAL_THREADS
  valueFrom: {resourceFieldRef: {containerName: {{ .component }}, resource: limits.cpu}}
{{- else if dig "requests" "cpu" "" .role.resources }}
- name: CARACAL_THREADS
  valueFrom: {resourceFieldRef: {containerName: {{ .component }}, resource: requests.cpu}}
{{- end }}
{{- end }}

{{/* Numbers for which 0 means the service's default: the variable is left out. */}}
{{- define "caracal.env.numbers" -}}
{{- range $name, $key := .numbers }}
{{- with int (index $.role $key) }}
- {name: CARACAL_{{ $name }}, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "caracal.env.attention" -}}
{{- include "caracal.env.worker" . }}
- {name: CARACAL_LINK, value: {{ .root.Values.link.kind | quote }}}
{{- $ranks := int .role.tp | default (int .role.accelerator.count) }}
{{- if gt $ranks 1 }}
- {name: CARACAL_TP, value: {{ $ranks | quote }}}
{{- end }}
{{- if ge (int .role.draft) 0 }}
- {name: CARACAL_DRAFT, value: {{ int .role.draft | quote }}}
{{- end }}
{{- with .role.tablesDir }}
- {name: CARACAL_TABLES_DIR, value: {{ . | quote }}}
{{- end }}
{{- $cache := dict "KV_PAGES" "kvPages" "PAGE_SIZE" "pageSize" "MAX_MODEL_LEN" "maxModelLen" }}
{{- $step := dict "MAX_BATCH_TOKENS" "maxBatchTokens" "MAX_ITL_MS" "maxItlMs" "MAX_RUNNING" "maxRunning" "EXPERT_WAIT_S" "expertWaitSeconds" }}
{{- include "caracal.env.numbers" (dict "role" .role "numbers" (merge $cache $step)) }}
{{- end }}

{{- define "caracal.env.expert" -}}
{{- include "caracal.env.worker" . }}
- name: CARACAL_NODE
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- /* Kubernetes 1.35 copies it from the node to its pods; before that it is empty. */}}
- name: CARACAL_ZONE
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
{{- include "caracal.env.numbers" (dict "role" .role "numbers" (dict "MAX_SESSIONS" "maxSessions")) }}
{{- if has .root.Values.link.kind (list "native" "") }}
- {name: CARACAL_NATIVE_PORT, value: {{ int .root.Values.link.nativePort | quote }}}
{{- end }}
{{- with int (include "caracal.expertsPerPod" .root) }}
- {name: CARACAL_CAPACITY, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "caracal.env.router" -}}
- {name: CARACAL_HOST, value: {{ .role.host | quote }}}
- {name: CARACAL_PORT, value: {{ int .role.port | quote }}}
- {name: CARACAL_GRPC_PORT, value: {{ int .role.grpcPort | quote }}}
- {name: CARACAL_ADMIN_HOST, value: {{ .role.host | quote }}}
- {name: CARACAL_ADMIN_PORT, value: {{ int .role.adminPort | quote }}}
- {name: CARACAL_MODEL_NAME, value: {{ .root.Values.model.name | quote }}}
- {name: CARACAL_GENERATION_CONFIG, value: {{ .root.Values.model.generationConfig }}}
{{- with .root.Values.placement.replicas }}
- {name: CARACAL_REPLICAS, value: {{ int . | quote }}}
{{- end }}
- {name: CARACAL_REDUNDANT_EXPERTS, value: {{ int .root.Values.placement.redundantExperts | quote }}}
- {name: CARACAL_REBALANCE_GB_PER_MINUTE, value: {{ .root.Values.placement.rebalanceGbPerMinute | quote }}}
- {name: CARACAL_PROGRESS_TIMEOUT_S, value: {{ int .role.progressTimeoutSeconds | quote }}}
{{- with int .role.coldStartSeconds }}
- {name: CARACAL_COLD_START_S, value: {{ . | quote }}}
{{- end }}
- {name: CARACAL_DRAIN_TIMEOUT_S, value: {{ int .role.drain.timeoutSeconds | quote }}}
- {name: CARACAL_RESPONSE_TTL_S, value: {{ int .role.responses.ttlSeconds | quote }}}
- {name: CARACAL_RESPONSE_MEMORY_MB, value: {{ int .role.responses.memoryMb | quote }}}
{{- if .role.console }}
- {name: CARACAL_CONSOLE_SCALE_COMMAND, value: {{ printf "kubectl -n %s scale statefulset/%s-ROLE --replicas=COUNT" .root.Release.Namespace (include "caracal.fullname" .root) | quote }}}
{{- else }}
- {name: CARACAL_CONSOLE, value: "0"}
{{- end }}
{{- if .role.apiKeys.existingSecret }}
- {name: CARACAL_API_KEYS_FILE, value: /etc/caracal/api-keys/{{ .role.apiKeys.secretKey }}}
{{- end }}
{{- with .role.record }}
- {name: CARACAL_RECORD, value: {{ . | quote }}}
{{- end }}
{{- with .role.corsOrigins }}
- {name: CARACAL_CORS_ORIGINS, value: {{ . | quote }}}
{{- end }}
{{- with .role.trustedProxies }}
- {name: FORWARDED_ALLOW_IPS, value: {{ join "," . | quote }}}
{{- end }}
{{- if include "caracal.events" .root }}
- {name: CARACAL_EVENTS, value: kubernetes}
{{- if .root.Values.lostPods.remove }}
- {name: CARACAL_LOST_PODS, value: {{ printf "app.kubernetes.io/name=%s,app.kubernetes.io/instance=%s,app.kubernetes.io/component in (attention,expert,redis)" (include "caracal.name" .root) .root.Release.Name | quote }}}
{{- end }}
- {name: CARACAL_EXPERT_SET, value: {{ include "caracal.component" (dict "root" .root "component" "expert") }}}
{{- end }}
{{- end }}
