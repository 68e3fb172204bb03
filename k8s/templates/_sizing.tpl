{{/* Number of expert pods needed for the model. Integers only, in KiB: floats could round an exact fit up by one pod. */}}

{{/* KiB of one expert: gate, up and down of hiddenSize x expertSize, in the storage format. */}}
{{- define "caracal.expertKiB" -}}
{{- $shape := .Values.model.shape }}
{{- $parameters := mul 3 (int $shape.hiddenSize) (int $shape.expertSize) }}
{{- $bytes := mul $parameters (get (dict "float32" 4 "bfloat16" 2 "float8_e4m3" 1) $shape.storage) }}
{{- if eq $shape.storage "float8_e4m3" }}{{ $bytes = add $bytes (mul 4 (div $parameters 16384)) }}{{ end }}
{{- div (add $bytes 1023) 1024 }}
{{- end }}

{{/* KiB of a pod's accelerators that experts may fill. */}}
{{- define "caracal.expertPodKiB" -}}
{{- $gpu := .accelerator }}
{{- div (mul (int $gpu.memoryGiB) (int $gpu.count) 1048576 (int $gpu.usablePercent)) 100 }}
{{- end }}

{{/* Experts that fit a pod's accelerators; 0 when the sizes are not given. */}}
{{- define "caracal.expertsFit" -}}
{{- $role := fromYaml (include "caracal.role" (dict "root" . "component" "expert")) }}
{{- $pod := int (include "caracal.expertPodKiB" $role) }}
{{- $expert := int (include "caracal.expertKiB" .) }}
{{- if or (not (int .Values.model.shape.layers)) (not $pod) (not $expert) }}0{{ else }}
{{- $fit := div $pod $expert }}
{{- if not (int $fit) }}{{ fail "One expert does not fit a pod: check model.shape and expert.accelerator." }}{{ end }}
{{- $fit }}
{{- end }}
{{- end }}

{{/* Experts that a pod may load: expert.capacity, else what fits; 0 when neither is known. */}}
{{- define "caracal.expertsPerPod" -}}
{{- int .Values.expert.capacity | default (int (include "caracal.expertsFit" .)) }}
{{- end }}

{{/* The scale guard's message, up to the number of replicas requested: (dict "root" $ "set" NAME "needed" N). */}}
{{- define "caracal.scaleGuardMessage" -}}
{{- $shape := .root.Values.model.shape }}
{{- $pods := printf "%d pod%s" .needed (ternary "" "s" (eq .needed 1)) }}
{{- $perPod := int (include "caracal.expertsPerPod" .root) }}
{{- if int (include "caracal.expertPodsNeeded" .root) }}
{{- printf "%s needs at least %s: %d x %d experts, %d replica(s) each, at %d per pod, do not fit on fewer. Requested: " .set $pods (int $shape.layers) (int $shape.experts) (int (.root.Values.placement.replicas | default 1)) $perPod }}
{{- else }}
{{- printf "%s needs at least %s: without an expert pod no request can be served. Requested: " .set $pods }}
{{- end }}
{{- end }}

{{/* Pods needed for all replicas of all experts; 0 when the model's sizes or a pod's capacity are not given. */}}
{{- define "caracal.expertPodsNeeded" -}}
{{- $shape := .Values.model.shape }}
{{- $perPod := int (include "caracal.expertsPerPod" .) }}
{{- if not (and $perPod (int $shape.layers)) }}0{{ else }}
{{- $all := mul (int $shape.layers) (int $shape.experts) (int (.Values.placement.replicas | default 1)) }}
{{- div (sub (add $all $perPod) 1) $perPod }}
{{- end }}
{{- end }}
