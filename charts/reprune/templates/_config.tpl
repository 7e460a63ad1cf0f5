{{/* The two files of the service; paths are those of _pod.tpl. */}}
{{- define "reprune.config" -}}
serve.yaml: |
  schema: 1
  watches: watches.yaml
  projects: /projects
  # Lost with the pod, which costs time only.
  state: /tmp/state
  webhook:
    secret_files:
      {{- range .Values.secrets.webhook.keys }}
      - webhook/{{ . }}
      {{- end }}
    window_s: {{ .Values.webhook.windowSeconds }}
    max_body_bytes: {{ .Values.webhook.maxBodyBytes | int64 }}
  kubeflow:
    host: {{ .Values.pipelines.host | quote }}
    ui: {{ .Values.pipelines.ui | default "" | quote }}
    {{- if include "reprune.pipelinesToken" . }}
    token_file: /var/run/secrets/kubeflow/pipelines/token
    {{- end }}
    {{- if .Values.caConfigMap }}
    ca_file: ca.crt
    {{- end }}
    timeout_s: {{ .Values.pipelines.timeoutSeconds }}
  {{- if .Values.secrets.github.name }}
  github:
    api: {{ .Values.github.api | quote }}
    token_file: github-token
  {{- end }}
  {{- if .Values.secrets.registry.name }}
  registry_secret: /var/run/secrets/reprune/registry
  {{- end }}
  {{- with .Values.secrets.registries }}
  registry_secrets:
    {{- range $uri, $ref := . }}
    {{ $uri | quote }}: {{ include "reprune.registryFolder" $uri }}
    {{- end }}
  {{- end }}
  {{- with .Values.runs }}
  runs:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.hooks }}
  hooks:
    {{- range . }}
    - name: {{ .name | quote }}
      kind: {{ .kind }}
      {{- if .urlSecret }}
      url_file: {{ printf "hooks/%s-url" .name | quote }}
      {{- else }}
      url: {{ .url | quote }}
      {{- end }}
      {{- if .signingSecret }}
      secret_file: {{ printf "hooks/%s-key" .name | quote }}
      {{- end }}
      {{- with .events }}
      events:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
  {{- end }}
watches.yaml: |
  schema: 1
  concurrency: {{ .Values.concurrency }}
  watches:
    {{- include "reprune.watches" . | nindent 4 }}
{{- end -}}

{{/* As they were written, each with a bound on what is copied to /tmp. */}}
{{- define "reprune.watches" -}}
{{- $watches := list -}}
{{- range .Values.watches -}}
{{- $registry := merge (dict) .registry (dict "max_bytes" (int64 $.Values.maxVersionBytes)) -}}
{{- $watches = append $watches (merge (dict "registry" $registry) .) -}}
{{- end -}}
{{- toYaml $watches -}}
{{- end -}}

{{/* The namespaces in which runs of watches are started, one a line. */}}
{{- define "reprune.namespaces" -}}
{{- $found := dict -}}
{{- range .Values.watches -}}
{{- if .namespace -}}
{{- $_ := set $found .namespace "" -}}
{{- end -}}
{{- end -}}
{{- keys $found | sortAlpha | join "\n" -}}
{{- end -}}

{{/* The images of the watches that start runs, one a line: each digest once, whatever it is called. */}}
{{- define "reprune.projects" -}}
{{- $images := dict -}}
{{- range .Values.watches -}}
{{- if .image -}}
{{- $_ := set $images (.image | splitList "@sha256:" | last) .image -}}
{{- end -}}
{{- end -}}
{{- range $index, $digest := keys $images | sortAlpha -}}
{{- if $index }}{{ "\n" }}{{ end -}}
{{- get $images $digest -}}
{{- end -}}
{{- end -}}

{{/* Where the secret of the registry at an address is mounted. */}}
{{- define "reprune.registryFolder" -}}
/var/run/secrets/reprune/{{ include "reprune.registryVolume" . }}
{{- end -}}

{{- define "reprune.registryVolume" -}}
registry-{{ . | sha256sum | trunc 12 }}
{{- end -}}
