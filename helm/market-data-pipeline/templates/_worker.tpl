{{/* The pod of a worker, the same in a Deployment and in a StatefulSet. */}}
{{- define "mdp.workerPod" -}}
{{- $workers := .Values.workers -}}
{{- $context := dict "root" . "component" "worker" "role" "worker" "values" $workers "app" (include "mdp.appConfigMap" .) -}}
metadata:
  {{- include "mdp.podMeta" $context | nindent 2 }}
spec:
  {{- include "mdp.podHead" $context | nindent 2 }}
  terminationGracePeriodSeconds: {{ int64 $workers.terminationGracePeriodSeconds }}
  {{- include "mdp.placement" $context | nindent 2 }}
  {{- include "mdp.spread" $context | nindent 2 }}
  containers:
    - name: worker
      image: {{ include "mdp.image" (dict "root" . "image" .Values.image.worker) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [mdp-worker]
      args:
        {{- include "mdp.appArgs" . | nindent 8 }}
        {{- if eq $workers.mode "pinned" }}
        {{- if eq (int64 $workers.replicas) (int64 .Values.job.partitions) }}
        - --partition=$(MDP_ORDINAL)
        {{- else }}
        - --partition=$(MDP_ORDINAL)/{{ int64 $workers.replicas }}
        {{- end }}
        {{- end }}
      {{- include "mdp.env" $context | nindent 6 }}
      {{- with $workers.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: http, containerPort: {{ int64 .Values.httpPort }}}
      {{- include "mdp.probes" $workers.probes | nindent 6 }}
      {{- include "mdp.preStop" $workers | nindent 6 }}
      resources:
        {{- toYaml $workers.resources | nindent 8 }}
      securityContext:
        {{- include "mdp.containerSecurity" . | nindent 8 }}
      {{- include "mdp.mounts" $context | nindent 6 }}
  {{- include "mdp.volumes" $context | nindent 2 }}
{{- end -}}

{{/*
How elastic workers are updated (YAML: maxSurge, maxUnavailable). One worker more than partitions would get none, never be
ready, and hold the update up for ever: then an old one goes first.
*/}}
{{- define "mdp.strategy" -}}
{{- $surge := .Values.workers.strategy.maxSurge -}}
{{- $unavailable := .Values.workers.strategy.maxUnavailable -}}
{{- if kindIs "invalid" $surge }}{{ $surge = ternary 1 0 (lt (int64 (include "mdp.mostWorkers" .)) (int64 .Values.job.partitions)) }}{{ end -}}
{{- if kindIs "invalid" $unavailable }}{{ $unavailable = ternary 1 0 (eq (int64 $surge) 0) }}{{ end -}}
{{- toYaml (dict "maxSurge" (int64 $surge) "maxUnavailable" (int64 $unavailable)) -}}
{{- end -}}
