{{- define "reprune.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40, so that what is put behind it stays within the 52 that a CronJob's name may have. */}}
{{- define "reprune.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "reprune.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "reprune.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "reprune.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "reprune.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is empty, and serviceAccount.create is false: name the account to use" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What chooses pods; it never changes. The component is added where it is used. */}}
{{- define "reprune.selector" -}}
app.kubernetes.io/name: {{ include "reprune.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "reprune.labels" -}}
{{- include "reprune.labelsWith" (list . dict) -}}
{{- end -}}

{{/* Called with the root and more labels, which win over commonLabels. */}}
{{- define "reprune.labelsWith" -}}
{{- $root := index . 0 -}}
{{ include "reprune.selector" $root }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with merge (dict) (index . 1) $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* By digest; by tag where somebody said which. */}}
{{- define "reprune.image" -}}
{{- $repository := required "image.repository is empty: name the control image" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (required "image.digest is empty: give the image's sha256 digest, or say image.tag if it has to be a tag" .Values.image.tag) -}}
{{- end -}}
{{- end -}}
