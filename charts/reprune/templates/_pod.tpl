{{/* The pod of the Deployment and of the sweep. Called with root, component, command, isServer. */}}
{{- define "reprune.pod" -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    {{- include "reprune.labelsWith" (list .root $values.podLabels) | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    # The service reads its configuration once, its secrets each time.
    reprune.dev/config: {{ include "reprune.config" .root | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "reprune.podSettings" .root | nindent 2 }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- if not .isServer }}
  restartPolicy: Never
  {{- end }}
  {{- with include "reprune.projects" .root }}
  initContainers:
    {{- range $image := splitList "\n" . }}
    {{- $digest := $image | splitList "@sha256:" | last }}
    - name: project-{{ trunc 12 $digest }}
      {{- include "reprune.containerSettings" (list $.root $image) | nindent 6 }}
      # -T: tried again, it copies over what it copied before.
      command: [cp, -RT, /project, "/projects/{{ $digest }}"]
      resources:
        requests: {cpu: 10m, memory: 32Mi, ephemeral-storage: 16Mi}
        limits: {cpu: 200m, memory: 128Mi, ephemeral-storage: {{ $values.projectsSize | quote }}}
      volumeMounts:
        - {name: projects, mountPath: /projects}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .component }}
      {{- include "reprune.containerSettings" (list .root (include "reprune.image" .root)) | nindent 6 }}
      command:
        {{- toYaml .command | nindent 8 }}
      {{- with include "reprune.environment" .root | trim }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        - {name: etc, mountPath: /etc/reprune, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        - {name: projects, mountPath: /projects, readOnly: true}
        {{- range $index, $volume := $values.registryVolumes }}
        - {name: versions-{{ $index }}, mountPath: {{ $volume.path | quote }}, readOnly: {{ $volume.readOnly | default false }}}
        {{- end }}
        {{- if $values.secrets.registry.name }}
        - {name: registry, mountPath: /var/run/secrets/reprune/registry, readOnly: true}
        {{- end }}
        {{- range $uri, $ref := $values.secrets.registries }}
        - {name: {{ include "reprune.registryVolume" $uri }}, mountPath: {{ include "reprune.registryFolder" $uri }}, readOnly: true}
        {{- end }}
        {{- if include "reprune.pipelinesToken" .root }}
        - {name: pipelines, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
        {{- end }}
      {{- if .isServer }}
      {{- include "reprune.serving" $values.probes | nindent 6 }}
      {{- end }}
  volumes:
    {{- include "reprune.volumes" .root | nindent 4 }}
{{- end -}}

{{- define "reprune.podSettings" -}}
serviceAccountName: {{ include "reprune.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  # Else every start walks through all files of a volume.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Called with the root and an image. */}}
{{- define "reprune.containerSettings" -}}
image: {{ index . 1 | quote }}
imagePullPolicy: {{ (index . 0).Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 10001
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Neither asks whether the registry answers: a restart would not bring it back, and webhooks still arrive. */}}
{{- define "reprune.serving" -}}
ports:
  - {name: http, containerPort: 8080, protocol: TCP}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  timeoutSeconds: {{ .timeoutSeconds }}
  failureThreshold: {{ div (add .startupSeconds 1) 2 }}
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: {{ .periodSeconds }}
  timeoutSeconds: {{ .timeoutSeconds }}
  failureThreshold: {{ .failureThreshold }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: {{ .periodSeconds }}
  timeoutSeconds: {{ .timeoutSeconds }}
  failureThreshold: {{ .failureThreshold }}
{{- end -}}

{{/* Not empty where there is a token for Kubeflow Pipelines. */}}
{{- define "reprune.pipelinesToken" -}}
{{- if or .Values.secrets.pipelines.name .Values.pipelines.token.projected -}}yes{{- end -}}
{{- end -}}

{{- define "reprune.environment" -}}
{{- if .Values.caConfigMap }}
- {name: SSL_CERT_FILE, value: /etc/reprune/ca.crt}
- {name: REQUESTS_CA_BUNDLE, value: /etc/reprune/ca.crt}
{{- end }}
{{- range $name, $ref := .Values.secrets.env }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $ref.name | quote }}, key: {{ $ref.key | quote }}}
{{- end }}
{{- range $name, $value := .Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "reprune.volumes" -}}
- name: etc
  projected:
    defaultMode: 0440
    sources:
      - configMap:
          name: {{ include "reprune.fullname" . }}
          items: [{key: serve.yaml, path: serve.yaml}, {key: watches.yaml, path: watches.yaml}]
      - secret:
          name: {{ required "secrets.webhook.name is empty: name an existing secret, without which the service does not start" .Values.secrets.webhook.name | quote }}
          items:
            {{- range .Values.secrets.webhook.keys }}
            - {key: {{ . | quote }}, path: {{ printf "webhook/%s" . | quote }}}
            {{- end }}
      {{- with .Values.secrets.github }}
      {{- if .name }}
      - secret:
          name: {{ .name | quote }}
          items: [{key: {{ .key | quote }}, path: github-token}]
      {{- end }}
      {{- end }}
      {{- range .Values.hooks }}
      {{- $hook := .name }}
      {{- range $part, $ref := dict "url" .urlSecret "key" .signingSecret }}
      {{- with $ref }}
      - secret:
          name: {{ .name | quote }}
          items: [{key: {{ .key | quote }}, path: {{ printf "hooks/%s-%s" $hook $part | quote }}}]
      {{- end }}
      {{- end }}
      {{- end }}
      {{- with .Values.caConfigMap }}
      - configMap:
          name: {{ . | quote }}
          items: [{key: ca.crt, path: ca.crt}]
      {{- end }}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.tmpSize | quote }}}
- name: projects
  emptyDir: {sizeLimit: {{ .Values.projectsSize | quote }}}
{{- range $index, $volume := .Values.registryVolumes }}
- name: versions-{{ $index }}
  persistentVolumeClaim: {claimName: {{ $volume.claim | quote }}, readOnly: {{ $volume.readOnly | default false }}}
{{- end }}
{{- with .Values.secrets.registry.name }}
- name: registry
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- range $uri, $ref := .Values.secrets.registries }}
- name: {{ include "reprune.registryVolume" $uri }}
  secret: {secretName: {{ $ref.name | quote }}, defaultMode: 0440}
{{- end }}
{{- if .Values.secrets.pipelines.name }}
- name: pipelines
  secret:
    secretName: {{ .Values.secrets.pipelines.name | quote }}
    defaultMode: 0440
    items: [{key: {{ .Values.secrets.pipelines.key | quote }}, path: token}]
{{- else if .Values.pipelines.token.projected }}
- name: pipelines
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .Values.pipelines.token.audience | quote }}
          expirationSeconds: {{ .Values.pipelines.token.expirationSeconds }}
{{- end }}
{{- end -}}
