{{/* TLS between pods: names, the volume with a role's certificate, and the pod that makes certificates. */}}

{{- define "caracal.cluster" -}}
{{- .Values.cluster | default (printf "%s.%s" .Release.Namespace (include "caracal.fullname" .)) }}
{{- end }}

{{/* Not empty when pods talk over TLS. */}}
{{- define "caracal.mtls" -}}
{{- if ne .Values.mtls.mode "none" }}yes{{ end }}
{{- end }}

{{/* The Secret of a role's certificate, or of the authority: (dict "root" $ "component" "expert"). */}}
{{- define "caracal.mtlsSecret" -}}
{{- printf "%s-mtls-%s" (include "caracal.fullname" .root) .component }}
{{- end }}

{{/* A pod waits until all three keys are there. */}}
{{- define "caracal.mtlsVolume" -}}
- name: mtls
  secret:
    secretName: {{ include "caracal.mtlsSecret" . }}
    items:
      {{- range $key := list "tls.crt" "tls.key" "ca.crt" }}
      - {key: {{ $key }}, path: {{ $key }}}
      {{- end }}
{{- end }}

{{- define "caracal.env.mtls" -}}
- {name: CARACAL_TLS_CERT, value: /etc/caracal/mtls/tls.crt}
- {name: CARACAL_TLS_KEY, value: /etc/caracal/mtls/tls.key}
- {name: CARACAL_TLS_CA, value: /etc/caracal/mtls/ca.crt}
{{- end }}

{{- define "caracal.certificatesAccount" -}}
{{- .Values.mtls.serviceAccountName | default (include "caracal.component" (dict "root" . "component" "certificates")) }}
{{- end }}

{{/* The pod template that makes and renews certificates, of the Job and the CronJob. */}}
{{- define "caracal.certificatesPod" -}}
metadata:
  labels:
    {{- include "caracal.selector" (dict "root" . "component" "certificates") | nindent 4 }}
    app.kubernetes.io/part-of: caracal
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
spec:
  {{- include "caracal.jobPod" (dict "root" . "account" (include "caracal.certificatesAccount" .)) | nindent 2 }}
  containers:
    - name: certificates
      {{- include "caracal.jobContainer" . | nindent 6 }}
      command: [python, -m, services.certificates]
      env:
        - {name: HOME, value: /tmp}
        - {name: CARACAL_CLUSTER, value: {{ include "caracal.cluster" . | quote }}}
        - {name: CARACAL_SECRETS, value: {{ include "caracal.fullname" . }}-mtls}
        - {name: CARACAL_CERTIFICATE_DAYS, value: {{ int .Values.mtls.certificateDays | quote }}}
        {{- include "caracal.env.logLevel" . | nindent 8 }}
{{- end }}
