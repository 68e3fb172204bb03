{{/* Weights of hf://, s3://, gs:// and https://: who fetches them, into which volume, with which environment. */}}

{{/* Not empty when the weights come from a hub or a bucket. */}}
{{- define "caracal.fetched" -}}
{{- if has (include "caracal.modelScheme" .) (list "hf" "s3" "gs" "https") }}yes{{ end }}
{{- end }}

{{/* Not empty for workers that fetch blocks while they run: (dict "root" $ "component" NAME). */}}
{{- define "caracal.fetchesSlices" -}}
{{- if and (include "caracal.fetched" .root) (eq .root.Values.model.fetch.mode "slices") (has .component (list "attention" "expert")) }}yes{{ end }}
{{- end }}

{{- define "caracal.fetchClaim" -}}
{{- .Values.model.fetch.claim.existing | default (include "caracal.component" (dict "root" . "component" "weights")) }}
{{- end }}

{{- define "caracal.fetchVolume" -}}
{{- $fetch := .Values.model.fetch }}
{{- if eq $fetch.mode "claim" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ include "caracal.fetchClaim" . }}
    readOnly: true
{{- else if $fetch.volume }}
- name: model
  {{- toYaml $fetch.volume | nindent 2 }}
{{- else }}
- name: model
  emptyDir:
    sizeLimit: {{ $fetch.sizeLimit }}
{{- end }}
{{- end }}

{{/* `caracal fetch` for a pod of a role, or for the Job: (dict "root" $ "component" NAME). */}}
{{- define "caracal.fetchCommand" -}}
{{- $fetch := .root.Values.model.fetch }}
{{- $command := list "caracal" "fetch" .root.Values.model.uri (include "caracal.modelPath" .root) }}
{{- if and (eq $fetch.mode "claim") (ne .component "weights") }}
{{- $command = append $command "--wait" }}
{{- else }}
{{- $command = concat $command (list "--connections" (int $fetch.connections | toString)) }}
{{- with $fetch.manifest }}{{ $command = concat $command (list "--manifest" .) }}{{ end }}
{{- if $fetch.unverified }}{{ $command = append $command "--unverified" }}{{ end }}
{{- if and $fetch.verify (eq .component "weights") }}{{ $command = append $command "--verify" }}{{ end }}
{{- if include "caracal.fetchesSlices" . }}{{ $command = append $command "--slices" }}{{ end }}
{{- end }}
{{- if and (eq .component "router") (ne $fetch.mode "claim") }}{{ $command = append $command "--no-weights" }}{{ end }}
{{- toJson $command }}
{{- end }}

{{/* Where the source is and what it asks for. */}}
{{- define "caracal.env.fetch" -}}
{{- $fetch := .Values.model.fetch }}
{{- $hub := eq (include "caracal.modelScheme" .) "hf" }}
{{- with $fetch.endpoint }}
- {name: {{ ternary "HF_ENDPOINT" "AWS_ENDPOINT_URL" $hub }}, value: {{ . | quote }}}
{{- end }}
{{- with $fetch.proxy }}
- {name: HTTP_PROXY, value: {{ . | quote }}}
- {name: HTTPS_PROXY, value: {{ . | quote }}}
{{- end }}
{{- with $fetch.noProxy }}
- {name: NO_PROXY, value: {{ . | quote }}}
{{- end }}
{{- if include "caracal.caBundle" . }}
- {name: CARACAL_FETCH_CA, value: /etc/caracal/ca/ca.crt}
{{- end }}
{{- if and $hub .Values.model.hf.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .Values.model.hf.existingSecret }}, key: {{ .Values.model.hf.secretKey }}}
{{- end }}
{{- with $fetch.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The init container of a role: it fetches, or waits for the Job. */}}
{{- define "caracal.modelInit" -}}
{{- if include "caracal.fetched" .root }}
- name: weights
  image: {{ include "caracal.image" (dict "root" .root "image" .role.image) }}
  imagePullPolicy: {{ .role.image.pullPolicy | default .root.Values.image.pullPolicy }}
  command: {{ include "caracal.fetchCommand" . }}
  env:
    - {name: HOME, value: /tmp}
    {{- include "caracal.env.logLevel" .root | nindent 4 }}
    {{- include "caracal.env.fetch" .root | nindent 4 }}
  {{- with .root.Values.model.fetch.existingSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  resources:
    {{- toYaml .role.resources | nindent 4 }}
  securityContext:
    {{- toYaml .role.securityContext | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - {name: model, mountPath: /model{{ if eq .root.Values.model.fetch.mode "claim" }}, readOnly: true{{ end }}}
    - {name: tmp, mountPath: /tmp}
    {{- if include "caracal.caBundle" .root }}
    - {name: ca, mountPath: /etc/caracal/ca, readOnly: true}
    {{- end }}
{{- end }}
{{- end }}

{{/* The pod of the Job. */}}
{{- define "caracal.weightsPod" -}}
metadata:
  labels:
    {{- include "caracal.selector" (dict "root" . "component" "weights") | nindent 4 }}
    app.kubernetes.io/part-of: caracal
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  {{- with .Values.model.fetch.verify }}
  annotations: {caracal/verify: {{ . | quote }}}
  {{- end }}
spec:
  {{- $job := fromYaml (include "caracal.jobPod" (dict "root" . "account" (include "caracal.serviceAccount" .))) }}
  {{- $volume := dict "name" "model" "persistentVolumeClaim" (dict "claimName" (include "caracal.fetchClaim" .)) }}
  {{- $_ := set $job "automountServiceAccountToken" false }}
  {{- $_ := set $job "volumes" (append $job.volumes $volume) }}
  {{- if include "caracal.caBundle" . }}
  {{- $_ := set $job "volumes" (concat $job.volumes (fromYamlArray (include "caracal.caVolume" .))) }}
  {{- end }}
  {{- toYaml $job | nindent 2 }}
  containers:
    - name: weights
      image: {{ include "caracal.image" (dict "root" . "image" .Values.pod.image) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: {{ include "caracal.fetchCommand" (dict "root" . "component" "weights") }}
      env:
        - {name: HOME, value: /tmp}
        {{- include "caracal.env.logLevel" . | nindent 8 }}
        {{- include "caracal.env.fetch" . | nindent 8 }}
      {{- with .Values.model.fetch.existingSecret }}
      envFrom:
        - secretRef: {name: {{ . }}}
      {{- end }}
      resources:
        {{- toYaml .Values.model.fetch.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.pod.securityContext | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: model, mountPath: /model}
        {{- if include "caracal.caBundle" . }}
        - {name: ca, mountPath: /etc/caracal/ca, readOnly: true}
        {{- end }}
{{- end }}

{{/* Not empty where a Job removes old models from the claim, which has to be the release's own. */}}
{{- define "caracal.prunes" -}}
{{- $claim := .Values.model.fetch.claim }}
{{- if and (include "caracal.fetched" .) (eq .Values.model.fetch.mode "claim") (int $claim.keep) (not $claim.existing) }}yes{{ end }}
{{- end }}

{{/* The pod of that Job. Its account may list pods; that of the pods which fetch stays without rights. */}}
{{- define "caracal.prunePod" -}}
{{- $name := include "caracal.component" (dict "root" . "component" "prune") }}
metadata:
  labels:
    {{- include "caracal.selector" (dict "root" . "component" "prune") | nindent 4 }}
    app.kubernetes.io/part-of: caracal
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
spec:
  {{- $job := fromYaml (include "caracal.jobPod" (dict "root" . "account" $name)) }}
  {{- $volume := dict "name" "model" "persistentVolumeClaim" (dict "claimName" (include "caracal.fetchClaim" .)) }}
  {{- $_ := set $job "volumes" (append $job.volumes $volume) }}
  {{- toYaml $job | nindent 2 }}
  containers:
    - name: prune
      {{- $container := fromYaml (include "caracal.jobContainer" .) }}
      {{- $_ := set $container "volumeMounts" (append $container.volumeMounts (dict "name" "model" "mountPath" "/model")) }}
      {{- toYaml $container | nindent 6 }}
      command: {{ list "caracal" "prune" (include "caracal.modelPath" .) "--keep" (int .Values.model.fetch.claim.keep | toString) | toJson }}
      env:
        - {name: HOME, value: /tmp}
        {{- include "caracal.env.logLevel" . | nindent 8 }}
{{- end }}

{{/* The port of a URL, or that of its scheme. */}}
{{- define "caracal.urlPort" -}}
{{- $host := regexReplaceAll "^[a-z0-9+]+://([^/@]*@)?([^/?#]*).*$" . "${2}" }}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https://" .)) }}
{{- end }}

{{/* TCP ports in the egress rules of pods that fetch, as a list: of the proxy, else of the source; and those of the values. */}}
{{- define "caracal.fetchPorts" -}}
{{- $fetch := .Values.model.fetch }}
{{- $ports := list }}
{{- range $fetch.ports }}{{ $ports = append $ports (int .) }}{{ end }}
{{- with $fetch.proxy }}{{ $ports = append $ports (include "caracal.urlPort" . | int) }}{{ end }}
{{- if or (not $fetch.proxy) $fetch.noProxy }}
{{- $source := $fetch.endpoint | default (ternary .Values.model.uri "https://" (eq (include "caracal.modelScheme" .) "https")) }}
{{- range $url := list $source $fetch.manifest }}
{{- if regexMatch "^https?://" $url }}{{ $ports = append $ports (include "caracal.urlPort" $url | int) }}{{ end }}
{{- end }}
{{- end }}
{{- toJson (uniq $ports) }}
{{- end }}

{{/* Egress rules of pods that fetch, as an array. Without keys of a bucket in a secret its library asks the cloud's metadata service, on the node's link. */}}
{{- define "caracal.fetchEgress" -}}
{{- $rules := list (dict "ports" (include "caracal.fetchPorts" . | fromJsonArray)) }}
{{- if and (has (include "caracal.modelScheme" .) (list "s3" "gs")) (not .Values.model.fetch.existingSecret) }}
{{- $link := list }}
{{- range list "169.254.0.0/16" "fd00:ec2::/32" }}{{ $link = append $link (dict "ipBlock" (dict "cidr" .)) }}{{ end }}
{{- $rules = append $rules (dict "raw" $link "ports" (list 80 988)) }}
{{- end }}
{{- toYaml $rules }}
{{- end }}
