{{/* Which signal KEDA reads: streams or coordinator. */}}
{{- define "mdp.signal" -}}
{{- if ne .Values.autoscaling.signal "auto" -}}
{{- .Values.autoscaling.signal -}}
{{- else -}}
{{- ternary "streams" "coordinator" (le (len .Values.job.streams) (int64 .Values.autoscaling.maxStreamTriggers)) -}}
{{- end -}}
{{- end -}}

{{/* Whether KEDA's triggers need the TriggerAuthentication: a user, or files for TLS. */}}
{{- define "mdp.triggerAuthentication" -}}
{{- if and .Values.autoscaling.enabled (eq (include "mdp.signal" .) "streams") -}}
{{- if or (include "mdp.redisSecret" .) .Values.redis.tls.caSecret .Values.redis.tls.clientSecret -}}
{{- printf "%s-redis" (include "mdp.fullname" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
A trigger per stream. Without consumerGroup KEDA compares XLEN with streamLength, and a stream that is not there counts
as 0. lagCount would need a group, and deleted entries make a group's lag undefined.
*/}}
{{- define "mdp.streamTriggers" -}}
{{- $redis := include "mdp.redis" . | fromYaml -}}
{{- $authentication := include "mdp.triggerAuthentication" . -}}
{{- $root := . -}}
{{- range $i, $stream := .Values.job.streams }}
- type: {{ ternary "redis-sentinel-streams" "redis-streams" $redis.sentinel }}
  name: p{{ $i }}
  metadata:
    {{- if $redis.sentinel }}
    addresses: {{ join "," $redis.addresses | quote }}
    sentinelMaster: {{ $redis.master | quote }}
    {{- else }}
    address: {{ first $redis.addresses | quote }}
    {{- end }}
    stream: {{ $stream | quote }}
    streamLength: {{ int64 $root.Values.autoscaling.target | quote }}
    databaseIndex: {{ int64 $redis.database | quote }}
    enableTLS: {{ $redis.tls | quote }}
  {{- with $authentication }}
  authenticationRef:
    name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "mdp.coordinatorTrigger" -}}
{{- $autoscaling := .Values.autoscaling -}}
{{- $url := printf "http://%s-coordinator.%s.svc:%d/api/scale?target=%d" (include "mdp.fullname" .) .Release.Namespace (int64 .Values.httpPort) (int64 $autoscaling.target) -}}
- type: metrics-api
  metricType: AverageValue
  metadata:
    url: {{ ternary (printf "%s&stage=%s" $url $autoscaling.stage) $url (ne $autoscaling.stage "") | quote }}
    valueLocation: scale_frames
    targetValue: {{ int64 $autoscaling.target | quote }}
    activationTargetValue: {{ int64 $autoscaling.activationTarget | quote }}
{{- end -}}
