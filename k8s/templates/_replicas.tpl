{{/* The Job that starts the first pods of roles whose `replicas` no manifest has. */}}

{{/* {"workloads": "statefulsets/caracal-expert=2 ...", "names": [...]}; empty without any. */}}
{{- define "caracal.initialReplicas" -}}
{{- $workloads := list }}
{{- $names := list }}
{{- range $component, $kind := dict "router" "deployments" "attention" "statefulsets" "expert" "statefulsets" }}
{{- $role := fromYaml (include "caracal.role" (dict "root" $ "component" $component)) }}
{{- if not (or $role.replicas $role.autoscaling.enabled (eq (int $role.initialReplicas) 1)) }}
{{- $name := include "caracal.component" (dict "root" $ "component" $component) }}
{{- $workloads = append $workloads (printf "%s/%s=%d" $kind $name (int $role.initialReplicas)) }}
{{- $names = append $names $name }}
{{- end }}
{{- end }}
{{- if $workloads }}{{ toJson (dict "workloads" (join " " $workloads) "names" $names) }}{{ end }}
{{- end }}

{{- define "caracal.replicasPod" -}}
metadata:
  labels:
    {{- include "caracal.selector" (dict "root" .root "component" "replicas") | nindent 4 }}
    app.kubernetes.io/part-of: caracal
    app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
spec:
  {{- include "caracal.jobPod" (dict "root" .root "account" (include "caracal.component" (dict "root" .root "component" "replicas"))) | nindent 2 }}
  containers:
    - name: replicas
      {{- include "caracal.jobContainer" .root | nindent 6 }}
      command: [python, -m, services.replicas]
      env:
        - {name: HOME, value: /tmp}
        - {name: CARACAL_INITIAL_REPLICAS, value: {{ .workloads | quote }}}
        - {name: CARACAL_CONFIG_MAP, value: {{ include "caracal.component" (dict "root" .root "component" "replicas") }}}
        {{- include "caracal.env.logLevel" .root | nindent 8 }}
{{- end }}

{{/* What the pods of Jobs have in common: (dict "root" $ "account" NAME). */}}
{{- define "caracal.jobPod" -}}
restartPolicy: OnFailure
serviceAccountName: {{ .account }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" }}
{{- with index $.root.Values.pod $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.pod.podSecurityContext | nindent 2 }}
volumes:
  - {{ include "caracal.tmpVolume" .root.Values.pod }}
{{- end }}

{{- define "caracal.jobContainer" -}}
image: {{ include "caracal.image" (dict "root" . "image" .Values.pod.image) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources:
  requests: {cpu: 10m, memory: 128Mi}
  limits: {memory: 512Mi}
securityContext:
  {{- toYaml .Values.pod.securityContext | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- end }}
