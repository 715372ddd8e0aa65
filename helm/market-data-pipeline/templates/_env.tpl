{{/* MDP_... of a process. Takes a dict: root ($), role (worker, coordinator, viewer), values (may lack extraEnv). */}}
{{- define "mdp.env" -}}
{{- $values := .root.Values -}}
{{- $redis := include "mdp.redis" .root | fromYaml -}}
{{- $secret := include "mdp.redisSecret" .root -}}
env:
  - {name: MDP_JOB, value: {{ $values.job.name | quote }}}
  - {name: MDP_PARTITIONS, value: {{ int64 $values.job.partitions | quote }}}
  - {name: MDP_REDIS_URL, value: {{ $redis.url | quote }}}
  {{- if $secret }}
  {{- $keys := include "mdp.redisKeys" . | fromYaml }}
  {{- with $keys.username }}
  - name: MDP_REDIS_USERNAME
    valueFrom:
      secretKeyRef: {name: {{ $secret }}, key: {{ . }}}
  {{- end }}
  - name: MDP_REDIS_PASSWORD
    valueFrom:
      secretKeyRef: {name: {{ $secret }}, key: {{ $keys.password }}}
  {{- with $values.redis.sentinel.passwordKey }}
  - name: MDP_SENTINEL_PASSWORD
    valueFrom:
      secretKeyRef: {name: {{ $secret }}, key: {{ . }}}
  {{- end }}
  {{- end }}
  {{- if $values.redis.tls.caSecret }}
  - {name: MDP_REDIS_CA, value: {{ printf "/etc/mdp/redis-ca/%s" $values.redis.tls.caKey | quote }}}
  {{- end }}
  {{- if $values.redis.tls.clientSecret }}
  - {name: MDP_REDIS_CERT, value: {{ printf "/etc/mdp/redis-client/%s" $values.redis.tls.certKey | quote }}}
  - {name: MDP_REDIS_KEY, value: {{ printf "/etc/mdp/redis-client/%s" $values.redis.tls.keyKey | quote }}}
  {{- end }}
  - {name: MDP_LOG_LEVEL, value: {{ $values.logLevel }}}
  {{- if $values.redis.allowVolatile }}
  - {name: MDP_ALLOW_VOLATILE, value: "true"}
  {{- end }}
  {{- if ne .role "viewer" }}
  {{- include "mdp.serviceEnv" . | nindent 2 }}
  {{- end }}
  {{- with .values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What only the two services need. */}}
{{- define "mdp.serviceEnv" -}}
{{- $values := .root.Values -}}
{{- $service := printf "%s-coordinator" (include "mdp.fullname" .root) -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $hosts := list $service (printf "%s.%s" $service $namespace) (printf "%s.%s.svc" $service $namespace) (printf "%s.%s.svc.%s" $service $namespace $values.clusterDomain) -}}
- {name: MDP_HTTP_HOST, value: 0.0.0.0}
- {name: MDP_HTTP_PORT, value: {{ int64 $values.httpPort | quote }}}
{{- if eq .role "coordinator" }}
- {name: MDP_HTTP_ALLOWED_HOSTS, value: {{ join "," $hosts | quote }}}
- {name: MDP_MIN_WORKERS, value: {{ int64 $values.coordinator.minWorkers | quote }}}
{{- end }}
- {name: MDP_CHANNEL_CAPACITY, value: {{ int64 $values.channel.capacity | quote }}}
- {name: MDP_CHANNEL_BYTES, value: {{ int64 $values.channel.bytes | quote }}}
- {name: MDP_HIGH_WATERMARK_PCT, value: {{ $values.channel.high | quote }}}
- {name: MDP_LOW_WATERMARK_PCT, value: {{ $values.channel.low | quote }}}
- {name: MDP_LEASE_TTL_MS, value: {{ int64 $values.leaseTtlMs | quote }}}
- {name: MDP_WAIT_REPLICAS, value: {{ int64 $values.redis.waitReplicas | quote }}}
- {name: MDP_AWAIT_PLAN, value: "true"}
{{- if eq .role "worker" }}
- name: MDP_WORKER_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- if eq $values.workers.mode "pinned" }}
- name: MDP_ORDINAL
  valueFrom:
    fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}
{{- end }}
{{- range list "MKL_NUM_THREADS" "OMP_NUM_THREADS" "OPENBLAS_NUM_THREADS" }}
- {name: {{ . }}, value: {{ int64 $values.workers.threads | quote }}}
{{- end }}
{{- end }}
{{- end -}}
