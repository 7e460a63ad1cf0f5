{{/* What a schema cannot say, or not in words that help. */}}
{{- define "reprune.refusals" -}}
{{- $values := .Values -}}
{{- if not $values.config.watches -}}
{{- fail "config.watches is empty: name at least one model to watch" -}}
{{- end -}}
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
{{- if $values.networkPolicy.enabled -}}
{{- $egress := $values.networkPolicy.egress -}}
{{- if not $egress.registry -}}
{{- fail "networkPolicy.egress.registry is empty: say where the registry is, or the service reaches none" -}}
{{- end -}}
{{- if not $egress.pipelines -}}
{{- fail "networkPolicy.egress.pipelines is empty: say where Kubeflow Pipelines is, or the service reaches none" -}}
{{- end -}}
{{- range $peer := concat $egress.registry $egress.pipelines $egress.others -}}
{{- if eq (empty $peer.namespace) (empty $peer.cidr) -}}
{{- fail (printf "networkPolicy.egress: %s has to have a namespace or a cidr, one of them" (toJson $peer)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "reprune.refusedVariables" -}}
{{- $ours := list "REPRUNE_KFP_HOST" "REPRUNE_KFP_UI" "REPRUNE_KFP_NAMESPACE" "KF_PIPELINES_SA_TOKEN_PATH" "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" "MLFLOW_TRACKING_TOKEN" -}}
{{- range $name := concat (keys .Values.env) (keys .Values.secrets.env) -}}
{{- if has $name $ours -}}
{{- fail (printf "%s has a value of its own (pipelines, secrets or caConfigMap): remove it from env and secrets.env" $name) -}}
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
