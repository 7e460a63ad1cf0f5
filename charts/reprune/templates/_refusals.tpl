{{/* What a schema cannot say, or not in words that help. */}}
{{- define "reprune.refusals" -}}
{{- $values := .Values -}}
{{- include "reprune.refusedWatches" . -}}
{{- if eq $values.image.tag "latest" -}}
{{- fail "image.tag is 'latest', which names no version: give image.digest, or another tag" -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]" (include "reprune.fullname" .)) -}}
{{- fail (printf "the release is called '%s', and a Service's name begins with a letter: set fullnameOverride" .Release.Name) -}}
{{- end -}}
{{- range $where, $labels := dict "commonLabels" $values.commonLabels "podLabels" $values.podLabels "serviceMonitor.labels" $values.serviceMonitor.labels "dashboard.labels" $values.dashboard.labels -}}
{{- range $label, $value := $labels -}}
{{- if regexMatch "^(app\\.kubernetes\\.io/(name|instance|version|managed-by|component)|helm\\.sh/chart)$" $label -}}
{{- fail (printf "%s: the chart itself sets %s, choose another label" $where $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "reprune.refusedVariables" . -}}
{{- range $values.registryVolumes -}}
{{- if regexMatch "^/(bin|boot|dev|etc|lib[^/]*|opt|proc|projects?|root|run|sbin|sys|tmp|usr|var)(/|$)" .path -}}
{{- fail (printf "registryVolumes: %s is not free in the image; choose a path below /mnt" .path) -}}
{{- end -}}
{{- end -}}
{{- include "reprune.refusedHooks" . -}}
{{- if $values.networkPolicy.enabled -}}
{{- $egress := $values.networkPolicy.egress -}}
{{- $remote := "" -}}
{{- range $values.watches -}}
{{- if ne (.registry.kind | default "mlflow") "files" -}}{{- $remote = "yes" -}}{{- end -}}
{{- end -}}
{{- if and $remote (not $egress.registry) -}}
{{- fail "networkPolicy.egress.registry is empty: say where the registry is, or the service reaches none" -}}
{{- end -}}
{{- if and (include "reprune.projects" .) (not $egress.pipelines) -}}
{{- fail "networkPolicy.egress.pipelines is empty: say where Kubeflow Pipelines is, or the service reaches none" -}}
{{- end -}}
{{- if and $values.hooks (not $egress.others) -}}
{{- fail "networkPolicy.egress.others is empty: say where the hooks are, or the service reaches none" -}}
{{- end -}}
{{- range $values.watches -}}
{{- if and (eq (.mode | default "run") "pull-request") (not $egress.others) -}}
{{- fail (printf "networkPolicy.egress.others is empty: say where GitHub is, which '%s' in mode pull-request is told at, or the service does not reach it" .name) -}}
{{- end -}}
{{- end -}}
{{- range $peer := concat $egress.registry $egress.pipelines $egress.others -}}
{{- if eq (empty $peer.namespace) (empty $peer.cidr) -}}
{{- fail (printf "networkPolicy.egress: %s has to have a namespace or a cidr, one of them" (toJson $peer)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "reprune.refusedHooks" -}}
{{- $names := list -}}
{{- range .Values.hooks -}}
{{- if has .name $names -}}
{{- fail (printf "hooks: there are two called '%s'" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- if eq (empty .url) (empty .urlSecret) -}}
{{- fail (printf "hooks: '%s' needs url or urlSecret, one of them" .name) -}}
{{- end -}}
{{- if and (eq .kind "slack") .url -}}
{{- fail (printf "hooks: the url of '%s' is a secret: put it into a Secret and name that in urlSecret" .name) -}}
{{- end -}}
{{- if and (eq .kind "webhook") (not .signingSecret) -}}
{{- fail (printf "hooks: '%s' is signed: name the secret in signingSecret" .name) -}}
{{- end -}}
{{- if and (eq .kind "slack") .signingSecret -}}
{{- fail (printf "hooks: '%s' of kind slack has no use for signingSecret" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "reprune.refusedVariables" -}}
{{- $ours := list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" "MLFLOW_TRACKING_TOKEN" "REPRUNE_REGISTRY_TOKEN_FILE" "REPRUNE_REGISTRY_TOKEN" -}}
{{- range $name := concat (keys .Values.env) (keys .Values.secrets.env) -}}
{{- if has $name $ours -}}
{{- fail (printf "%s has a value of its own (secrets.registry or caConfigMap): remove it from env and secrets.env" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .Values.env -}}
{{- if or (regexMatch "SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE|(^|_)(KEY|AUTH|PASS)(_|$)" $name) (regexMatch "://[^/@]*@" $value) -}}
{{- fail (printf "env.%s looks like a secret: put it into a Secret and name that in secrets.env" $name) -}}
{{- end -}}
{{- if hasKey $.Values.secrets.env $name -}}
{{- fail (printf "%s is in env and in secrets.env: remove one" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "reprune.refusedWatches" -}}
{{- if not .Values.watches -}}
{{- fail "watches is empty: name at least one model to watch" -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.watches -}}
{{- $names = append $names .name -}}
{{- if regexMatch "://[^/]*@" .registry.uri -}}
{{- fail (printf "watches: the registry's uri of '%s' holds a password: put it into a Secret and name that in secrets.registry" .name) -}}
{{- end -}}
{{- $kind := .registry.kind | default "mlflow" -}}
{{- if eq $kind "files" -}}
{{- include "reprune.refusedFolder" (list $ .name "registry.uri" (trimPrefix "file://" .registry.uri)) -}}
{{- else if eq $kind "kubeflow" -}}
{{- include "reprune.refusedFolder" (list $ .name "registry.artifacts" (.registry.artifacts | default "" | trimPrefix "file://")) -}}
{{- end -}}
{{- if eq (.mode | default "run") "run" -}}
{{- if or (not .image) (not .experiment) -}}
{{- fail (printf "watches: '%s' in mode run needs an image and an experiment" .name) -}}
{{- end -}}
{{- else -}}
{{- if not .repository -}}
{{- fail (printf "watches: '%s' in mode pull-request needs a repository" .name) -}}
{{- end -}}
{{- if not $.Values.secrets.github.name -}}
{{- fail (printf "watches: '%s' in mode pull-request needs secrets.github.name, whose token may send repository dispatches" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $uris := list -}}
{{- range .Values.watches -}}{{- $uris = append $uris .registry.uri -}}{{- end -}}
{{- range $uri, $_ := .Values.secrets.registries -}}
{{- if not (has $uri $uris) -}}
{{- fail (printf "secrets.registries: nobody watches '%s'" $uri) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.runs -}}
{{- if not (has $name $names) -}}
{{- fail (printf "runs: nobody watches '%s'" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Called with the root, a model, and a folder with its name, which has to lie on a volume. */}}
{{- define "reprune.refusedFolder" -}}
{{- $folder := printf "%s/" (index . 3 | trimSuffix "/") -}}
{{- $held := "" -}}
{{- range (index . 0).Values.registryVolumes -}}
{{- if hasPrefix (printf "%s/" .path) $folder -}}{{- $held = "yes" -}}{{- end -}}
{{- end -}}
{{- if or (not $held) (has ".." (splitList "/" $folder)) -}}
{{- fail (printf "watches: %s of '%s' is '%s', which lies on none of registryVolumes: name the claim, and the path where it is mounted" (index . 2) (index . 1) (index . 3)) -}}
{{- end -}}
{{- end -}}
