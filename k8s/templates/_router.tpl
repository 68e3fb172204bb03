{{- define "caracal.ports.router" -}}
- {name: http, containerPort: {{ int .role.port }}}
- {name: grpc, containerPort: {{ int .role.grpcPort }}}
- {name: admin, containerPort: {{ int .role.adminPort }}}
{{- end }}

{{/* /health covers only the process; /ready also needs an attention worker with a placement table. */}}
{{- define "caracal.probes.router" -}}
startup:
  httpGet: {path: /health, port: http}
  periodSeconds: 2
  failureThreshold: {{ div (add (int .role.probes.startupTimeoutSeconds) 1) 2 }}
readiness:
  httpGet: {path: /ready, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
liveness:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
