{{- define "caracal.ports.redis" -}}
- {name: redis, containerPort: {{ int .role.port }}}
{{- end }}

{{- define "caracal.probes.redis" -}}
{{- range $probe := list "startup" "readiness" "liveness" }}
{{ $probe }}:
  tcpSocket: {port: redis}
  periodSeconds: {{ ternary 10 1 (eq $probe "liveness") }}
  failureThreshold: {{ ternary (int $.role.probes.startupTimeoutSeconds) 3 (eq $probe "startup") }}
{{- end }}
{{- end }}

{{- define "caracal.env.redis" -}}
- {name: HOME, value: /tmp}
{{- with .role.existingSecret }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $.role.secretKey }}}
{{- with $.role.previousSecretKey }}
- name: REDIS_PREVIOUS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $.role.existingSecret }}, key: {{ . }}}
{{- end }}
{{- end }}
{{- end }}
