{{/* Rules between several values, which the schema cannot express. Each message names the value and how to fix it. */}}

{{- define "caracal.check.model" -}}
{{- $uri := .Values.model.uri }}
{{- $scheme := include "caracal.modelScheme" . }}
{{- if not (has $scheme (list "builtin" "pvc" "oci" "hf" "s3" "gs" "https" "hostPath")) }}
{{- fail (printf "model.uri is %q: start it with builtin://, pvc://, oci://, hf://, s3://, gs://, https:// or hostPath://." $uri) }}
{{- end }}
{{- if and (eq $scheme "hf") (not (regexMatch "^hf://[^/@]+/[^/@]+@[^@]+$" $uri)) }}
{{- fail (printf "model.uri is %q: write hf://ORG/NAME@REVISION. Without a pinned revision two pods could load different weights." $uri) }}
{{- end }}
{{- if and (has $scheme (list "s3" "gs")) (not (regexMatch "^[a-z0-9][a-z0-9._-]+(/[^ ]*)?$" (include "caracal.modelRest" .))) }}
{{- fail (printf "model.uri is %q: write %s://BUCKET or %s://BUCKET/PREFIX." $uri $scheme $scheme) }}
{{- end }}
{{- $fetch := .Values.model.fetch }}
{{- if and (ne $fetch.mode "pods") (not (include "caracal.fetched" .)) }}
{{- fail (printf "model.fetch.mode is %s, but model.uri is %q, which is not fetched: that is for hf://, s3://, gs:// and https://." $fetch.mode $uri) }}
{{- end }}
{{- if and $fetch.verify (ne $fetch.mode "claim") }}
{{- fail (printf "model.fetch.verify is for model.fetch.mode=claim: with %s a pod that starts anew fetches and compares." $fetch.mode) }}
{{- end }}
{{- if and (eq $fetch.mode "claim") $fetch.volume }}
{{- fail "model.fetch.volume is for the modes pods and slices; with mode=claim the volume is model.fetch.claim." }}
{{- end }}
{{- if and (eq $scheme "https") (not (regexMatch "^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[^ ?#]*)?$" (include "caracal.modelRest" .))) }}
{{- fail (printf "model.uri is %q: write https://HOST/FOLDER or https://HOST:PORT/FOLDER, without user or query." $uri) }}
{{- end }}
{{- if and $fetch.endpoint (has $scheme (list "gs" "https")) }}
{{- fail "model.fetch.endpoint is for hf:// and s3://; Google Cloud Storage has no other, and https:// names it." }}
{{- end }}
{{- if and (eq $scheme "hostPath") (not (hasPrefix "/" (include "caracal.modelRest" .))) }}
{{- fail (printf "model.uri is %q: a host path is absolute, as in hostPath:///models/flash." $uri) }}
{{- end }}
{{- $rest := include "caracal.modelRest" . }}
{{- if and (eq $scheme "builtin") (ne $rest "caracal-tiny") }}
{{- fail (printf "model.uri is %q: the image contains only builtin://caracal-tiny. For another model write pvc://, oci://, hf://, s3://, gs://, https:// or hostPath://." $uri) }}
{{- end }}
{{- if and (eq $scheme "pvc") (not (regexMatch "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?$" $rest)) }}
{{- fail (printf "model.uri is %q: write pvc://CLAIM or pvc://CLAIM/PATH with the name of a PersistentVolumeClaim." $uri) }}
{{- end }}
{{- if and (eq $scheme "oci") (not (regexMatch "^[A-Za-z0-9][^ ]*$" $rest)) }}
{{- fail (printf "model.uri is %q: write oci://REPOSITORY:TAG." $uri) }}
{{- end }}
{{- $shape := .Values.model.shape }}
{{- if int $shape.layers }}
{{- range $key := ternary (list "experts") (list "experts" "hiddenSize" "expertSize") (gt (int .Values.expert.capacity) 0) }}
{{- if not (int (index $shape $key)) }}{{ fail (printf "model.shape.layers is set but model.shape.%s is 0: give all four sizes from config.json, or 0 layers for no capacity check." $key) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "caracal.check.scaleGuard" -}}
{{- $scale := (fromYaml (include "caracal.role" (dict "root" . "component" "expert"))).autoscaling }}
{{- if and .Values.scaleGuard.enabled $scale.enabled (not (int $scale.minReplicas)) }}
{{- fail "scaleGuard rejects every scale of experts to 0, and expert.autoscaling.minReplicas is 0: switch one of them off." }}
{{- end }}
{{- end }}

{{- define "caracal.check.lostPods" -}}
{{- if and .Values.lostPods.remove (not (include "caracal.events" .)) }}
{{- fail "lostPods.remove is on and routers have no access to the API server: events.enabled=true gives it, with a service account of their own." }}
{{- end }}
{{- end }}

{{- define "caracal.check.redis" -}}
{{- $external := or .Values.externalRedis.url .Values.externalRedis.existingSecret }}
{{- if and .Values.redis.enabled $external }}
{{- fail "Both redis.enabled and externalRedis are set: add redis.enabled=false to use your own Redis." }}
{{- end }}
{{- if not (or .Values.redis.enabled $external) }}
{{- fail "redis.enabled is false and there is no externalRedis.url or externalRedis.existingSecret: the processes could not find each other." }}
{{- end }}
{{- if and .Values.caBundle.configMap .Values.caBundle.secret }}
{{- fail "caBundle has both a configMap and a secret: name one of them." }}
{{- end }}
{{- range $name := list "externalRedis" "nextRedis" }}
{{- $own := index $.Values $name }}
{{- if or (regexMatch "://[^/@]*:[^/@]+@" $own.url) (regexMatch "[?&][a-z_]*password=" $own.url) }}
{{- fail (printf "%s.url contains a password, which would be visible in the pods' spec: put the whole URL into a secret and name it in %s.existingSecret." $name $name) }}
{{- end }}
{{- $given := int $own.port }}
{{- $inUrl := int (include "caracal.ownRedisPort" (dict "url" $own.url "port" 0)) }}
{{- $sentinels := contains "+sentinel://" $own.url }}
{{- if and $sentinels (not (int $own.sentinelPort)) }}
{{- fail (printf "%s.url is one of Sentinels: give their port in %s.sentinelPort, which the NetworkPolicy would block, and that of the Redis in %s.port." $name $name $name) }}
{{- end }}
{{- if and $own.url $given (ne $given $inUrl) (not $sentinels) }}
{{- fail (printf "%s.port is %d but %s.url has port %d, which the NetworkPolicy would block. Leave %s.port at 0 to use the URL's." $name $given $name $inUrl $name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "caracal.check.edge" -}}
{{- $tls := .Values.tls }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.enabled: name the hosts in ingress.hosts. An Ingress without hosts serves every name that reaches the controller; if you want that, write \"*\"." }}
{{- end }}
{{- if and (ne $tls.mode "none") (has "*" .Values.ingress.hosts) }}
{{- fail "ingress.hosts has \"*\", for which there is no certificate: name the hosts, or leave tls.mode at none." }}
{{- end }}
{{- if and (ne $tls.mode "none") (not (or .Values.ingress.enabled .Values.httpRoute.enabled)) }}
{{- fail (printf "tls.mode is %q but neither ingress.enabled nor httpRoute.enabled is set: nothing would present the certificate." $tls.mode) }}
{{- end }}
{{- if and (eq $tls.mode "certManager") (not $tls.issuerRef.name) }}
{{- fail "tls.mode is certManager: name the issuer in tls.issuerRef.name." }}
{{- end }}
{{- if and (ne $tls.mode "none") (not (concat .Values.ingress.hosts .Values.httpRoute.hostnames)) }}
{{- fail "tls.mode is set: a certificate needs a host name, in ingress.hosts or httpRoute.hostnames." }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.enabled: name the Gateway in httpRoute.parentRefs, e.g. [{name: public, namespace: gateways}]." }}
{{- end }}
{{- if and .Values.inferencePool.enabled (not .Values.inferencePool.endpointPicker.name) }}
{{- fail "inferencePool.enabled: name the endpoint picker's Service in inferencePool.endpointPicker.name." }}
{{- end }}
{{- end }}

{{- define "caracal.check.capacity" -}}
{{- $role := fromYaml (include "caracal.role" (dict "root" . "component" "expert")) }}
{{- $needed := int (include "caracal.expertPodsNeeded" .) }}
{{- $all := dict "root" . "component" "expert" "kind" "StatefulSet" "role" $role }}
{{- $have := int (include "caracal.pods" $all) }}
{{- if lt $have $needed }}
{{- $shape := .Values.model.shape }}
{{- $capacity := printf "%d x %d GiB" (int $role.accelerator.count) (int $role.accelerator.memoryGiB) }}
{{- if int $role.capacity }}{{ $capacity = printf "%d experts (expert.capacity)" (int $role.capacity) }}{{ end }}
{{- fail (printf "%s is %d, but %d x %d experts in %s, %d replica(s) each, need at least %d pods of %s: raise it, or lower placement.replicas." (include "caracal.podsKey" $all) $have (int $shape.layers) (int $shape.experts) $shape.storage (int (.Values.placement.replicas | default 1)) $needed $capacity) }}
{{- end }}
{{- $fit := int (include "caracal.expertsFit" .) }}
{{- if and $fit (gt (int $role.capacity) $fit) }}
{{- fail (printf "expert.capacity is %d, but only %d experts fit a pod of %d x %d GiB: lower it, or leave it at 0." (int $role.capacity) $fit (int $role.accelerator.count) (int $role.accelerator.memoryGiB)) }}
{{- end }}
{{- if and (gt (int (.Values.placement.replicas | default 1)) 1) (lt $have (int (.Values.placement.replicas | default 1))) }}
{{- fail (printf "placement.replicas is %d but there are only %d expert pods: two replicas of an expert on one pod add no redundancy." (int (.Values.placement.replicas | default 1)) $have) }}
{{- end }}
{{- end }}

{{- define "caracal.check.roles" -}}
{{- range $component := list "router" "attention" "expert" }}
{{- $role := fromYaml (include "caracal.role" (dict "root" $ "component" $component)) }}
{{- $scale := $role.autoscaling }}
{{- if gt (int $scale.minReplicas) (int $scale.maxReplicas) }}
{{- fail (printf "%s.autoscaling.minReplicas is %d, above maxReplicas %d." $component (int $scale.minReplicas) (int $scale.maxReplicas)) }}
{{- end }}
{{- if and $scale.enabled (eq $scale.kind "hpa") (not (int $scale.minReplicas)) }}
{{- fail (printf "%s.autoscaling.minReplicas is 0, which a HorizontalPodAutoscaler rejects: use kind=keda." $component) }}
{{- end }}
{{- if and $scale.enabled (not (int $scale.minReplicas)) (not $scale.query) }}
{{- fail (printf "%s.autoscaling.minReplicas is 0 without %s.autoscaling.query: a role without pods has no metric that could scale it up. Give a query of a metric of others, such as the requests that wait and run at the routers, or those at your Ingress controller." $component $component) }}
{{- end }}
{{- if and (eq $component "router") (gt (int $role.coldStartSeconds) (int $role.progressTimeoutSeconds)) }}
{{- fail (printf "router.coldStartSeconds is %d, above router.progressTimeoutSeconds %d, after which a request is given up." (int $role.coldStartSeconds) (int $role.progressTimeoutSeconds)) }}
{{- end }}
{{- $used := dict }}
{{- range $port := ternary (list "port" "grpcPort" "adminPort") (list "port" "metricsPort") (eq $component "router") }}
{{- $number := int (index $role $port) | toString }}
{{- with index $used $number }}
{{- fail (printf "%s.%s and %s.%s are both %s: a port can only be used once." $component . $component $port $number) }}
{{- end }}
{{- $_ := set $used $number $port }}
{{- end }}
{{- if and (eq $component "expert") (has $.Values.link.kind (list "native" "")) (has (int $.Values.link.nativePort) (list (int $role.port) (int $role.metricsPort))) }}
{{- fail (printf "link.nativePort and a port of expert are both %d: a port can only be used once." (int $.Values.link.nativePort)) }}
{{- end }}
{{- if and (eq $component "router") (eq (int $role.service.port) (int $role.grpcPort)) }}
{{- fail (printf "router.service.port and router.grpcPort are both %d: the Service also exposes the gRPC API, on the latter." (int $role.grpcPort)) }}
{{- end }}
{{- if and (int ($role.maxRunning | default 0)) (int ($role.maxBatchTokens | default 0)) (gt (int $role.maxRunning) (int $role.maxBatchTokens)) }}
{{- fail (printf "%s.maxRunning is %d, above %s.maxBatchTokens %d: a running sequence takes at least one token of a step." $component (int $role.maxRunning) $component (int $role.maxBatchTokens)) }}
{{- end }}
{{- if and $scale.enabled (eq $component "router") (not (dig "requests" "cpu" "" $role.resources)) (not $scale.metric) }}
{{- fail "router.autoscaling scales on CPU in % of the request: give router.resources.requests.cpu." }}
{{- end }}
{{- if and (int $role.accelerator.count) $role.resourceClaims }}
{{- fail (printf "%s has both accelerator.count and resourceClaims: the pod would request its GPUs twice." $component) }}
{{- end }}
{{- if and $role.tp (int $role.accelerator.count) (ne (int $role.tp) (int $role.accelerator.count)) }}
{{- fail (printf "%s.tp is %d but %s.accelerator.count is %d: every rank needs one GPU of its own. Leave tp at 0 to use accelerator.count." $component (int $role.tp) $component (int $role.accelerator.count)) }}
{{- end }}
{{- if has (toString (index $role.pdb "maxUnavailable")) (list "0" "0%") }}
{{- fail (printf "%s.pdb.maxUnavailable is 0: no node with such a pod could ever be drained. Use 1, or pdb.enabled=false." $component) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Images, and requests beside limits, of all pods. */}}
{{- define "caracal.check.pods" -}}
{{- range $component := list "router" "attention" "expert" "redis" }}
{{- if or (ne $component "redis") $.Values.redis.enabled }}
{{- $role := fromYaml (include "caracal.role" (dict "root" $ "component" $component)) }}
{{- $image := deepCopy $.Values.image }}
{{- range $key, $value := $role.image }}{{ $_ := set $image $key $value }}{{ end }}
{{- if and (eq $image.tag "latest") (not $image.digest) }}
{{- fail (printf "The image of %s has the tag \"latest\", which cannot be rolled back: give a version, or a digest." $component) }}
{{- end }}
{{- include "caracal.check.requests" (dict "of" (printf "%s.resources" $component) "resources" $role.resources) }}
{{- end }}
{{- end }}
{{- include "caracal.check.requests" (dict "of" "model.fetch.resources" "resources" .Values.model.fetch.resources) }}
{{- end }}

{{- define "caracal.check.requests" -}}
{{- range $what, $request := .resources.requests }}
{{- $limit := dig "limits" $what "" $.resources }}
{{- if and (ne (toString $limit) "") (gt (include "caracal.amount" $request | float64) (include "caracal.amount" $limit | float64)) }}
{{- fail (printf "%s.requests.%s is %v, above the limit %v: the API server rejects such a pod." $.of $what $request $limit) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "caracal.amount" -}}
{{- $text := toString . }}
{{- $unit := regexFind "[A-Za-z]+$" $text }}
{{- $factors := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 }}
{{- mulf (trimSuffix $unit $text | float64) (get $factors $unit | default 1.0) }}
{{- end }}

{{- define "caracal.check.mtls" -}}
{{- $cluster := include "caracal.cluster" . }}
{{- if include "caracal.mtls" . }}
{{- if or (gt (len $cluster) 128) (not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$" $cluster)) }}
{{- fail (printf "cluster is %q, which is part of names in certificates (mtls.mode is %s): use up to 128 of a-z, 0-9, - and ., or mtls.mode=none." $cluster .Values.mtls.mode) }}
{{- end }}
{{- if not .Values.link.allowPlainP2p }}
{{- if eq .Values.link.kind "nccl" }}
{{- fail (printf "link.kind is nccl, whose P2P groups cannot be encrypted, and mtls.mode is %s: use native or grpc, or set link.allowPlainP2p=true on a network that is trusted." .Values.mtls.mode) }}
{{- end }}
{{- $role := fromYaml (include "caracal.role" (dict "root" . "component" "attention")) }}
{{- $gpus := or (int $role.accelerator.count) $role.resourceClaims (hasPrefix "cuda" $role.device) }}
{{- if and $gpus (gt (int $role.tp | default (int $role.accelerator.count)) 1) }}
{{- fail (printf "attention pods have several ranks on GPUs, which exchange over NCCL, and mtls.mode is %s: NCCL cannot be encrypted. Set link.allowPlainP2p=true to allow it, inside a pod as between pods." .Values.mtls.mode) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
