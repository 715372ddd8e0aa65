{{/* What all pods share. Each piece takes a dict: root ($), and where it says so component, role, values. */}}
{{- define "mdp.image" -}}
{{- $image := .image -}}
{{- $name := ternary (printf "%s/%s" .root.Values.image.registry $image.repository) $image.repository (ne .root.Values.image.registry "") -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "mdp.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.security.runAsUser }}
runAsGroup: {{ int64 .Values.security.runAsGroup }}
fsGroup: {{ int64 .Values.security.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mdp.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The first fields of a pod's spec. Service links would set MDP_... variables for a Service named mdp-.... */}}
{{- define "mdp.podHead" -}}
serviceAccountName: {{ include "mdp.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  {{- include "mdp.podSecurity" .root | nindent 2 }}
{{- end -}}

{{- define "mdp.placement" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mdp.spread" -}}
{{- if .values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: {{ int64 .values.topologySpread.maxSkew }}
    topologyKey: {{ .values.topologySpread.topologyKey }}
    whenUnsatisfiable: {{ .values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "mdp.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a pod. A changed program or password restarts pods. */}}
{{- define "mdp.podMeta" -}}
labels:
  {{- include "mdp.labels" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/config: {{ printf "%s%s" (toJson .root.Values.app.files) (toJson .root.Values.redis.auth) | sha256sum }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "mdp.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: {{ int64 .startupPeriodSeconds }}
  timeoutSeconds: {{ int64 .livenessTimeoutSeconds }}
  failureThreshold: {{ int64 .startupFailureThreshold }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: {{ int64 .readinessPeriodSeconds }}
  timeoutSeconds: {{ int64 .livenessTimeoutSeconds }}
  failureThreshold: {{ int64 .readinessFailureThreshold }}
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: {{ int64 .livenessPeriodSeconds }}
  timeoutSeconds: {{ int64 .livenessTimeoutSeconds }}
  failureThreshold: {{ int64 .livenessFailureThreshold }}
{{- end -}}

{{- define "mdp.preStop" -}}
{{- if .preStopSeconds }}
lifecycle:
  preStop:
    exec:
      command: [sleep, {{ int64 .preStopSeconds | quote }}]
{{- end }}
{{- end -}}

{{/* Name of the ConfigMap with the program; empty where it is in the image. */}}
{{- define "mdp.appConfigMap" -}}
{{- if .Values.app.files -}}{{ include "mdp.fullname" . }}-app{{- else -}}{{ .Values.app.existingConfigMap }}{{- end -}}
{{- end -}}

{{/* root, app (name of the program's ConfigMap), values (may lack extraVolumeMounts). */}}
{{- define "mdp.mounts" -}}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if .app }}
  - {name: app, mountPath: /app, readOnly: true}
  {{- end }}
  {{- if .root.Values.redis.tls.caSecret }}
  - {name: redis-ca, mountPath: /etc/mdp/redis-ca, readOnly: true}
  {{- end }}
  {{- if .root.Values.redis.tls.clientSecret }}
  - {name: redis-client, mountPath: /etc/mdp/redis-client, readOnly: true}
  {{- end }}
  {{- with .values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "mdp.volumes" -}}
volumes:
  - name: tmp
    emptyDir: {}
  {{- with .app }}
  - name: app
    configMap:
      name: {{ . }}
  {{- end }}
  {{- with .root.Values.redis.tls.caSecret }}
  - name: redis-ca
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- with .root.Values.redis.tls.clientSecret }}
  - name: redis-client
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- with .values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* APP and --set of a command. Kubernetes would expand $(...) in arguments. */}}
{{- define "mdp.appArgs" -}}
- {{ .Values.app.name | replace "$(" "$$(" | quote }}
{{- range $name, $value := .Values.app.set }}
- {{ printf "--set=%s=%s" $name (include "mdp.scalar" $value) | replace "$(" "$$(" | quote }}
{{- end }}
{{- end -}}
