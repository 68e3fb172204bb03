{{/* The checkpoint: its path inside the container, its volume, its mount, and the init container that downloads hf://. */}}

{{- define "caracal.modelScheme" -}}
{{- regexFind "^[A-Za-z]+://" .Values.model.uri | trimSuffix "://" }}
{{- end }}

{{- define "caracal.modelRest" -}}
{{- regexReplaceAll "^[A-Za-z]+://" .Values.model.uri "" }}
{{- end }}

{{- define "caracal.modelPath" -}}
{{- $rest := include "caracal.modelRest" . }}
{{- $scheme := include "caracal.modelScheme" . }}
{{- if eq $scheme "builtin" -}}
/app/models/{{ $rest }}
{{- else if eq $scheme "pvc" -}}
{{ regexReplaceAll "^[^/]+" $rest "/model" | trimSuffix "/" }}
{{- else -}}
/model
{{- end }}
{{- end }}

{{- define "caracal.modelVolume" -}}
{{- $rest := include "caracal.modelRest" . }}
{{- $scheme := include "caracal.modelScheme" . }}
{{- if eq $scheme "pvc" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ splitList "/" $rest | first }}
    readOnly: true
{{- else if eq $scheme "oci" }}
- name: model
  image:
    reference: {{ $rest }}
    pullPolicy: {{ .Values.image.pullPolicy }}
{{- else if eq $scheme "hf" }}
- name: model
  emptyDir:
    sizeLimit: {{ .Values.model.hf.sizeLimit }}
{{- else if eq $scheme "hostPath" }}
- name: model
  hostPath:
    path: {{ $rest }}
    type: Directory
{{- end }}
{{- end }}

{{- define "caracal.modelMount" -}}
{{- if ne (include "caracal.modelScheme" .) "builtin" }}
- name: model
  mountPath: /model
  readOnly: true
{{- end }}
{{- end }}

{{/* Routers need the tokenizer and the configuration only. */}}
{{- define "caracal.modelInit" -}}
{{- if eq (include "caracal.modelScheme" .root) "hf" }}
{{- $parts := splitList "@" (include "caracal.modelRest" .root) }}
- name: model
  image: {{ include "caracal.image" (dict "root" .root "image" .role.image) }}
  imagePullPolicy: {{ .role.image.pullPolicy | default .root.Values.image.pullPolicy }}
  command: [hf, download, {{ first $parts | quote }}, --revision, {{ last $parts | quote }}, --local-dir, /model]
  {{- if eq .component "router" }}
  args: [--exclude, "*.safetensors"]
  {{- end }}
  env:
    - {name: HOME, value: /tmp}
    {{- with .root.Values.model.hf.existingSecret }}
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef: {name: {{ . }}, key: {{ $.root.Values.model.hf.secretKey }}}
    {{- end }}
  resources:
    {{- toYaml .role.resources | nindent 4 }}
  securityContext:
    {{- toYaml .role.securityContext | nindent 4 }}
  volumeMounts:
    - {name: model, mountPath: /model}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end }}
