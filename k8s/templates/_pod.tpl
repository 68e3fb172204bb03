{{/*
The pod of a role: (dict "root" $ "component" "expert" "role" ROLE "revisionLabel" "controller-revision-hash").
Each role has its own templates caracal.env.ROLE, caracal.ports.ROLE and caracal.probes.ROLE.
*/}}
{{- define "caracal.pod" -}}
{{- $rdma := and .root.Values.rdma.enabled (has .component (list "attention" "expert")) -}}
metadata:
  labels:
    {{- include "caracal.selector" . | nindent 4 }}
    {{- /* No helm.sh/chart here: a new chart version with unchanged pods must not restart them. */}}
    app.kubernetes.io/part-of: caracal
    app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
    {{- if eq .component "router" }}
    llm-d.ai/engine-type: caracal
    {{- end }}
    {{- with .role.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .role.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- $router := eq .component "router" }}
  serviceAccountName: {{ ternary (include "caracal.routerAccount" .root) (.role.serviceAccountName | default (include "caracal.serviceAccount" .root)) $router }}
  automountServiceAccountToken: {{ and $router (include "caracal.events" .root | eq "yes") }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "caracal.grace" . }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- range $key := list "runtimeClassName" "priorityClassName" "schedulerName" }}
  {{- with index $.role $key }}
  {{ $key }}: {{ . }}
  {{- end }}
  {{- end }}
  {{- with include "caracal.tolerations" .role | fromJsonArray }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- range $key := list "nodeSelector" "resourceClaims" }}
  {{- with index $.role $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- if and $rdma .root.Values.rdma.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- if and $rdma .root.Values.rdma.hostIPC }}
  hostIPC: true
  {{- end }}
  {{- with include "caracal.affinity" . | trim }}
  affinity:
    {{- . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- include "caracal.spread" . | trim | nindent 4 }}
  securityContext:
    {{- toYaml .role.podSecurityContext | nindent 4 }}
  {{- $init := ternary (include "caracal.modelInit" . | trim) "" (ne .component "redis") }}
  {{- if or $init .role.initContainers }}
  initContainers:
    {{- with $init }}{{ . | nindent 4 }}{{ end }}
    {{- with .role.initContainers }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- end }}
  containers:
    - name: {{ .component }}
      {{- include "caracal.container" (merge (dict "rdma" $rdma) .) | nindent 6 }}
    {{- with .role.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - {{ include "caracal.tmpVolume" .role }}
    {{- with .role.shmSize }}
    - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ . }}}}
    {{- end }}
    {{- if ne .component "redis" }}
    {{- with include "caracal.modelVolume" .root | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with include "caracal.clusterKeySecret" .root }}
    - {name: cluster-key, secret: {secretName: {{ . }}}}
    {{- end }}
    {{- if include "caracal.mtls" .root }}
    {{- include "caracal.mtlsVolume" . | nindent 4 }}
    {{- end }}
    {{- if include "caracal.caBundle" .root }}
    {{- include "caracal.caVolume" .root | nindent 4 }}
    {{- end }}
    {{- if eq .component "router" }}
    {{- with .role.apiKeys.existingSecret }}
    - {name: api-keys, secret: {secretName: {{ . }}, items: [{key: {{ $.role.apiKeys.secretKey }}, path: {{ $.role.apiKeys.secretKey }}}]}}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- with .role.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Those of the values, and how long a pod stays on a node that does not answer, unless they say that as well. */}}
{{- define "caracal.tolerations" -}}
{{- $all := .tolerations }}
{{- range $taint := ternary (list "not-ready" "unreachable") list (gt (int .nodeLossSeconds) 0) }}
{{- $key := printf "node.kubernetes.io/%s" $taint }}
{{- $given := false }}
{{- range $.tolerations }}{{ if eq (.key | default "") $key }}{{ $given = true }}{{ end }}{{ end }}
{{- if not $given }}
{{- $all = append $all (dict "key" $key "operator" "Exists" "effect" "NoExecute" "tolerationSeconds" (int $.nodeLossSeconds)) }}
{{- end }}
{{- end }}
{{- toJson $all }}
{{- end }}

{{- define "caracal.tmpVolume" -}}
{name: tmp, emptyDir: {sizeLimit: {{ .tmpSizeLimit }}}}
{{- end }}

{{- define "caracal.container" -}}
image: {{ include "caracal.image" (dict "root" .root "image" .role.image) }}
imagePullPolicy: {{ .role.image.pullPolicy | default .root.Values.image.pullPolicy }}
command: {{ .role.command | default (list "python" "-m" (printf "services.%s" (ternary "router" (printf "%s_worker" .component) (eq .component "router")))) | toJson }}
{{- with .role.args }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  {{- if ne .component "redis" }}
  {{- include "caracal.env.common" . | trim | nindent 2 }}
  {{- end }}
  {{- include (printf "caracal.env.%s" .component) . | trim | nindent 2 }}
  {{- if include "caracal.fetchesSlices" . }}
  {{- include "caracal.env.fetch" .root | trim | nindent 2 }}
  {{- end }}
  {{- with .role.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $from := .role.envFrom }}
{{- if and (include "caracal.fetchesSlices" .) .root.Values.model.fetch.existingSecret }}
{{- $from = append $from (dict "secretRef" (dict "name" .root.Values.model.fetch.existingSecret)) }}
{{- end }}
{{- with $from }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- include (printf "caracal.ports.%s" .component) . | trim | nindent 2 }}
  {{- with .role.extraPorts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $defaults := fromYaml (include (printf "caracal.probes.%s" .component) .) }}
{{- range $probe := list "startup" "readiness" "liveness" }}
{{ $probe }}Probe:
  {{- toYaml (index $.role.probes $probe | default (index $defaults $probe)) | nindent 2 }}
{{- end }}
{{- if int .role.drain.preStopSeconds }}
lifecycle:
  preStop:
    sleep: {seconds: {{ int .role.drain.preStopSeconds }}}
{{- end }}
resources:
  {{- include "caracal.resources" . | nindent 2 }}
securityContext:
  {{- $security := deepCopy .role.securityContext }}
  {{- if and .rdma .root.Values.rdma.ipcLock }}
  {{- $_ := set $security "capabilities" (merge (dict "add" (list "IPC_LOCK")) $security.capabilities) }}
  {{- end }}
  {{- toYaml $security | nindent 2 }}
{{- /* `kubectl describe` then shows the last log line of a process that cannot start: which file, which tensor. */}}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if .role.shmSize }}
  - {name: shm, mountPath: /dev/shm}
  {{- end }}
  {{- if ne .component "redis" }}
  {{- with include "caracal.modelMount" . | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if .root.Values.clusterKey.enabled }}
  - {name: cluster-key, mountPath: /etc/caracal/cluster-key, readOnly: true}
  {{- end }}
  {{- if include "caracal.mtls" .root }}
  - {name: mtls, mountPath: /etc/caracal/mtls, readOnly: true}
  {{- end }}
  {{- if include "caracal.caBundle" .root }}
  - {name: ca, mountPath: /etc/caracal/ca, readOnly: true}
  {{- end }}
  {{- if and (eq .component "router") .role.apiKeys.existingSecret }}
  - {name: api-keys, mountPath: /etc/caracal/api-keys, readOnly: true}
  {{- end }}
  {{- end }}
  {{- with .role.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Requests and limits, with GPUs, RDMA devices and DRA claims added. */}}
{{- define "caracal.resources" -}}
{{- $resources := deepCopy .role.resources }}
{{- $extra := dict }}
{{- if int .role.accelerator.count }}{{ $_ := set $extra .role.accelerator.resourceName (int .role.accelerator.count) }}{{ end }}
{{- if and .rdma .root.Values.rdma.resourceName }}{{ $_ := set $extra .root.Values.rdma.resourceName 1 }}{{ end }}
{{- if $extra }}{{ $_ := set $resources "limits" (merge $extra ($resources.limits | default dict)) }}{{ end }}
{{- if .role.resourceClaims }}
{{- $claims := list }}
{{- range .role.resourceClaims }}{{ $claims = append $claims (dict "name" .name) }}{{ end }}
{{- $_ := set $resources "claims" $claims }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
