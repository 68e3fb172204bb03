{{/* The checkpoint: its path inside the container, its volume, its mount. How it is fetched: _fetch.tpl. */}}

{{- define "caracal.modelScheme" -}}
{{- regexFind "^[A-Za-z0-9]+://" .Values.model.uri | trimSuffix "://" }}
{{- end }}

{{- define "caracal.modelRest" -}}
{{- regexReplaceAll "^[A-Za-z0-9]+://" .Values.model.uri "" }}
{{- end }}

{{- define "caracal.modelPath" -}}
{{- $rest := include "caracal.modelRest" . }}
{{- $scheme := include "caracal.modelScheme" . }}
{{- if eq $scheme "builtin" -}}
/app/models/{{ $rest }}
{{- else if eq $scheme "pvc" -}}
{{ regexReplaceAll "^[^/]+" $rest "/model" | trimSuffix "/" }}
{{- else if include "caracal.fetched" . -}}
{{- /* Another model or revision lies beside this one, which pods of the last release still read. */ -}}
/model/{{ sha256sum .Values.model.uri | trunc 16 }}
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
{{- else if include "caracal.fetched" . }}
{{- include "caracal.fetchVolume" . }}
{{- else if eq $scheme "hostPath" }}
- name: model
  hostPath:
    path: {{ $rest }}
    type: Directory
{{- end }}
{{- end }}

{{/* Only workers with slices write: the blocks that they fetch. */}}
{{- define "caracal.modelMount" -}}
{{- if ne (include "caracal.modelScheme" .root) "builtin" }}
- name: model
  mountPath: /model
  {{- if not (include "caracal.fetchesSlices" .) }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}
