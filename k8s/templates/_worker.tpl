{{/* Shared by attention and expert workers: StatefulSet, headless Service, ports, probes. Called with (dict "root" $ "component" NAME). */}}

{{- define "caracal.worker.statefulset" -}}
{{- $role := fromYaml (include "caracal.role" .) }}
{{- $all := merge (dict "role" $role "kind" "StatefulSet" "revisionLabel" "controller-revision-hash") . }}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "caracal.workloadMetadata" $all | nindent 2 }}
spec:
  {{- with include "caracal.replicas" $all }}
  replicas: {{ . }}
  {{- end }}
  serviceName: {{ include "caracal.component" . }}
  podManagementPolicy: Parallel
  minReadySeconds: {{ int $role.minReadySeconds }}
  updateStrategy:
    {{- $role.updateStrategy | default (dict "type" "RollingUpdate") | toYaml | nindent 4 }}
  selector:
    matchLabels:
      {{- include "caracal.selector" . | nindent 6 }}
  template:
    {{- include "caracal.pod" $all | nindent 4 }}
{{- end }}

{{/* Headless, for stable names only: processes find each other by the addresses in Redis, not by DNS. */}}
{{- define "caracal.worker.service" -}}
{{- $role := fromYaml (include "caracal.role" .) }}
apiVersion: v1
kind: Service
metadata:
  {{- include "caracal.metadata" (merge (dict "annotations" $role.serviceAnnotations) .) | nindent 2 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "caracal.selector" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ int $role.port }}, targetPort: grpc, appProtocol: kubernetes.io/h2c}
    - {name: metrics, port: {{ int $role.metricsPort }}, targetPort: metrics}
{{- end }}

{{- define "caracal.ports.worker" -}}
- {name: grpc, containerPort: {{ int .role.port }}}
- {name: metrics, containerPort: {{ int .role.metricsPort }}}
{{- end }}

{{- define "caracal.ports.attention" -}}
{{- include "caracal.ports.worker" . }}
{{- end }}

{{- define "caracal.ports.expert" -}}
{{- include "caracal.ports.worker" . }}
{{- if has .root.Values.link.kind (list "native" "") }}
- {name: native, containerPort: {{ int .root.Values.link.nativePort }}}
{{- end }}
{{- end }}

{{/* The metrics port answers for the gRPC server, which asks for a certificate that the kubelet has not. */}}
{{- define "caracal.probes.worker" -}}
startup:
  httpGet: {path: /health/startup, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ div (add (int .role.probes.startupTimeoutSeconds) 1) 2 }}
readiness:
  httpGet: {path: /health/readiness, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
liveness:
  httpGet: {path: /health/liveness, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "caracal.probes.attention" -}}
{{- include "caracal.probes.worker" . }}
{{- end }}

{{- define "caracal.probes.expert" -}}
{{- include "caracal.probes.worker" . }}
{{- end }}
