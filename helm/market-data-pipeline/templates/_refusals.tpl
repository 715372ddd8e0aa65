{{/*
What the chart refuses to render, each in one sentence: what, where, what is allowed. All that are wrong are said at once.
A template "mdp.refuse.NAME" gives its sentence, or nothing.
*/}}
{{- define "mdp.refusals" -}}
{{- $root := . -}}
{{- $said := list -}}
{{- range list
    "appName" "appSource" "appFile" "jobName" "redisMissing" "redisTwice" "redisUrl" "redisTls" "redisSecret" "redisSecretTwice"
    "valkeyPassword" "sentinels" "levels" "replicas" "pinnedAutoscaling" "maxReplicas" "minReplicas" "fallback" "scaleToZero"
    "streamsMissing" "streamsForeign" "streamsUneven" "stage" "kedaHost" "unreachable" "surge" "workerGrace" "coordinatorGrace"
    "deployDeadline" -}}
{{- with include (printf "mdp.refuse.%s" .) $root | trim -}}
{{- $said = append $said . -}}
{{- end -}}
{{- end -}}
{{- if $said -}}{{- fail (printf "\n%s" (join "\n" $said)) -}}{{- end -}}
{{- end -}}

{{- define "mdp.refuse.appName" -}}
{{- if not .Values.app.name -}}
app.name is empty: say which program runs, a path in the image or in app.files such as /app/bars.py, or module:attr.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.appSource" -}}
{{- if and .Values.app.files .Values.app.existingConfigMap -}}
app.files and app.existingConfigMap are both given and would both be /app: give one of them.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.appFile" -}}
{{- $path := first (splitList ":" .Values.app.name) -}}
{{- if and .Values.app.files (hasSuffix ".py" $path) (not (hasKey .Values.app.files (trimPrefix "/app/" $path))) -}}
app.name is {{ .Values.app.name }}, which is not in app.files: allowed are /app/ and one of {{ keys .Values.app.files | sortAlpha | join ", " }}.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.jobName" -}}
{{- if not .Values.job.name -}}
job.name is empty: take what mdp keys APP --format helm prints (-f keys.yaml), or a name of your own matching [a-z0-9-]{1,40}.
{{- end -}}
{{- end -}}

{{- define "mdp.redisGiven" -}}
{{- $given := list -}}
{{- if .Values.redis.url }}{{ $given = append $given "redis.url" }}{{ end -}}
{{- if .Values.redis.host }}{{ $given = append $given "redis.host" }}{{ end -}}
{{- if .Values.redis.sentinel.enabled }}{{ $given = append $given "redis.sentinel.enabled" }}{{ end -}}
{{- if .Values.valkey.enabled }}{{ $given = append $given "valkey.enabled" }}{{ end -}}
{{- join " and " $given -}}
{{- end -}}

{{- define "mdp.refuse.redisMissing" -}}
{{- if not (include "mdp.redisGiven" .) -}}
No Redis is named: give redis.url (without password), redis.host, redis.sentinel.enabled with addresses, or valkey.enabled to try the chart.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.redisTwice" -}}
{{- $given := include "mdp.redisGiven" . -}}
{{- if contains " and " $given -}}
{{ $given }} each name a server: give one of them.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.redisUrl" -}}
{{- with .Values.redis.url -}}
{{- if contains "@" . -}}
redis.url holds a user or password, which everybody who may read the release could see: put them into a Secret and name it in redis.existingSecret.
{{- else if not (or (regexMatch "^rediss?://[A-Za-z0-9._-]+(:[0-9]+)?(/[0-9]+)?$" .) (regexMatch "^rediss?[+]sentinel://[A-Za-z0-9._-]+(:[0-9]+)?(,[A-Za-z0-9._-]+(:[0-9]+)?)*/[A-Za-z0-9._-]+(/[0-9]+)?$" .)) -}}
redis.url is {{ . }}: allowed are redis://host[:port][/db], rediss://host[:port][/db] and redis+sentinel:// or rediss+sentinel:// with host[:port],host[:port]/master[/db].
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.redisTls" -}}
{{- $files := or .Values.redis.tls.caSecret .Values.redis.tls.clientSecret -}}
{{- if .Values.redis.tls.enabled -}}
{{- if and .Values.redis.url (not (hasPrefix "rediss" .Values.redis.url)) -}}
redis.tls.enabled is true and redis.url is plain text: write rediss:// or rediss+sentinel://.
{{- else if .Values.valkey.enabled -}}
redis.tls.enabled is true and the server of valkey.enabled has no TLS: leave one of them out.
{{- end -}}
{{- else if and $files (not (hasPrefix "rediss" .Values.redis.url)) -}}
redis.tls.caSecret or redis.tls.clientSecret is given and TLS is off: set redis.tls.enabled, or write rediss:// in redis.url.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.redisSecret" -}}
{{- $auth := .Values.redis.auth -}}
{{- if and (include "mdp.redisGiven" .) (not (or .Values.redis.existingSecret $auth.create $auth.disabled)) -}}
No Secret for Redis is named: give redis.existingSecret, or say redis.auth.disabled where the server asks for no password (redis.auth.create makes a Secret, for trying).
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.redisSecretTwice" -}}
{{- $auth := .Values.redis.auth -}}
{{- $given := list -}}
{{- if .Values.redis.existingSecret }}{{ $given = append $given "redis.existingSecret" }}{{ end -}}
{{- if $auth.create }}{{ $given = append $given "redis.auth.create" }}{{ end -}}
{{- if $auth.disabled }}{{ $given = append $given "redis.auth.disabled" }}{{ end -}}
{{- if gt (len $given) 1 -}}
{{ join " and " $given }} contradict each other: give one of them.
{{- else if and $auth.create (not $auth.password) -}}
redis.auth.create is true and redis.auth.password is empty: give a password.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.valkeyPassword" -}}
{{- $name := include "mdp.redisKeys" (dict "root" . "role" "worker") | fromYaml -}}
{{- if .Values.valkey.enabled -}}
{{- if .Values.redis.auth.disabled -}}
valkey.enabled needs a password and redis.auth.disabled says that there is none: give redis.existingSecret, or redis.auth.create with redis.auth.password.
{{- else if $name.username -}}
valkey.enabled has the default user only and redis names a user: leave redis.auth.username, or redis.keys.*.username, empty.
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.sentinels" -}}
{{- if and .Values.redis.sentinel.enabled (not .Values.redis.sentinel.addresses) -}}
redis.sentinel.enabled is true and redis.sentinel.addresses is empty: list the sentinels as host or host:port.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.levels" -}}
{{- if ge (float64 .Values.channel.low) (float64 .Values.channel.high) -}}
channel.low is {{ .Values.channel.low }} and channel.high {{ .Values.channel.high }}: low must be below high.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.replicas" -}}
{{- if and (not .Values.autoscaling.enabled) (gt (int64 .Values.workers.replicas) (int64 .Values.job.partitions)) -}}
workers.replicas is {{ int64 .Values.workers.replicas }} and job.partitions {{ int64 .Values.job.partitions }}: a worker without a partition does nothing and is never ready, so at most {{ int64 .Values.job.partitions }} are allowed.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.pinnedAutoscaling" -}}
{{- if and .Values.autoscaling.enabled (eq .Values.workers.mode "pinned") -}}
workers.mode is pinned and autoscaling.enabled true: KEDA scales the Deployment of elastic workers, and pinned ones are a StatefulSet with fixed ranges; choose elastic, or a fixed workers.replicas.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.maxReplicas" -}}
{{- if and .Values.autoscaling.enabled (gt (int64 .Values.autoscaling.maxReplicas) (int64 .Values.job.partitions)) -}}
autoscaling.maxReplicas is {{ int64 .Values.autoscaling.maxReplicas }} and job.partitions {{ int64 .Values.job.partitions }}: a worker without a partition does nothing, so at most {{ int64 .Values.job.partitions }} are allowed.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.minReplicas" -}}
{{- $autoscaling := .Values.autoscaling -}}
{{- if and $autoscaling.enabled (gt (int64 $autoscaling.minReplicas) (int64 $autoscaling.maxReplicas)) -}}
autoscaling.minReplicas is {{ int64 $autoscaling.minReplicas }} and autoscaling.maxReplicas {{ int64 $autoscaling.maxReplicas }}: min must not be above max.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.fallback" -}}
{{- $autoscaling := .Values.autoscaling -}}
{{- if and $autoscaling.enabled (gt (int64 $autoscaling.fallback.replicas) (int64 $autoscaling.maxReplicas)) -}}
autoscaling.fallback.replicas is {{ int64 $autoscaling.fallback.replicas }} and autoscaling.maxReplicas {{ int64 $autoscaling.maxReplicas }}: the fallback must not be above max.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.scaleToZero" -}}
{{- $autoscaling := .Values.autoscaling -}}
{{- if and $autoscaling.enabled (eq (int64 $autoscaling.minReplicas) 0) .Values.job.needsWorkers (not $autoscaling.allowScaleToZero) -}}
autoscaling.minReplicas is 0 and the job would stop without workers ({{ join "; " .Values.job.needsWorkers }}): at least 1 is allowed, unless autoscaling.allowScaleToZero is true.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.streamsMissing" -}}
{{- if and .Values.autoscaling.enabled (eq (include "mdp.signal" .) "streams") (not .Values.job.streams) -}}
autoscaling.signal reads stream lengths and job.streams is empty: take what mdp keys APP --format helm prints (-f keys.yaml), or set autoscaling.signal to coordinator.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.streamsForeign" -}}
{{- $mine := printf "^mdp:[{]%s:[0-9]+[}]:q:[A-Za-z0-9._-]+$" .Values.job.name -}}
{{- $foreign := list -}}
{{- range .Values.job.streams -}}
{{- if not (regexMatch $mine .) }}{{ $foreign = append $foreign . }}{{ end -}}
{{- end -}}
{{- if and .Values.job.name $foreign -}}
job.streams holds {{ first $foreign }}, which is no stream of job {{ .Values.job.name }}: allowed are names such as mdp:{{ "{" }}{{ .Values.job.name }}:0}:q:SOURCE.TARGET, as mdp keys APP --job {{ .Values.job.name }} prints them.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.streamsUneven" -}}
{{- $count := len .Values.job.streams -}}
{{- if ne (mod $count (int64 .Values.job.partitions)) 0 -}}
job.streams has {{ $count }} names and job.partitions is {{ int64 .Values.job.partitions }}: there is a stream for each edge and partition, so the number of names must be a multiple; run mdp keys APP --partitions {{ int64 .Values.job.partitions }} again.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.stage" -}}
{{- $autoscaling := .Values.autoscaling -}}
{{- if and $autoscaling.enabled $autoscaling.stage -}}
{{- if eq (include "mdp.signal" .) "streams" -}}
autoscaling.stage is {{ $autoscaling.stage }} and the signal is streams, which adds up all streams: set autoscaling.signal to coordinator, or leave stage empty.
{{- else if not (has $autoscaling.stage .Values.job.stages) -}}
autoscaling.stage is {{ $autoscaling.stage }}: allowed are {{ default "none, as job.stages is empty" (join ", " .Values.job.stages) }}.
{{- end -}}
{{- end -}}
{{- end -}}

{{/* KEDA asks from its own namespace, where a Service's name alone means another one. */}}
{{- define "mdp.refuse.kedaHost" -}}
{{- if and .Values.autoscaling.enabled (eq (include "mdp.signal" .) "streams") (include "mdp.redisGiven" .) -}}
{{- range (include "mdp.redis" . | fromYaml).addresses -}}
{{- $host := regexReplaceAll ":[0-9]+$" . "" -}}
{{- if not (contains "." $host) }}
Redis is at {{ $host }}, which KEDA would look for in its own namespace: write {{ $host }}.NAMESPACE.svc, or set autoscaling.signal to coordinator.
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Backpressure holds each stream at the high level, so there are never more frames than that. */}}
{{- define "mdp.refuse.unreachable" -}}
{{- $autoscaling := .Values.autoscaling -}}
{{- $wanted := mul (int64 $autoscaling.target) (int64 $autoscaling.maxReplicas) -}}
{{- $most := mulf (float64 (int64 .Values.job.partitions)) (float64 (int64 .Values.channel.capacity)) .Values.channel.high | floor | int64 -}}
{{- if and $autoscaling.enabled (gt $wanted $most) -}}
autoscaling.target {{ int64 $autoscaling.target }} x autoscaling.maxReplicas {{ int64 $autoscaling.maxReplicas }} = {{ $wanted }} frames can never wait, because backpressure holds {{ int64 .Values.job.partitions }} partitions x channel.capacity {{ int64 .Values.channel.capacity }} x channel.high {{ .Values.channel.high }} = {{ $most }}: a target of at most {{ div $most (int64 $autoscaling.maxReplicas) }} is allowed.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.surge" -}}
{{- if eq .Values.workers.mode "elastic" -}}
{{- $strategy := include "mdp.strategy" . | fromYaml -}}
{{- $most := int64 (include "mdp.mostWorkers" .) -}}
{{- if eq (int64 $strategy.maxUnavailable) 0 -}}
{{- if eq (int64 $strategy.maxSurge) 0 -}}
workers.strategy.maxSurge and maxUnavailable are both 0 (maxSurge by default where no partition is left for one worker more): an update could not replace any worker; at least one must be 1.
{{- else if gt (add $most (int64 $strategy.maxSurge)) (int64 .Values.job.partitions) -}}
workers.strategy.maxSurge {{ int64 $strategy.maxSurge }} with maxUnavailable 0 needs a partition for each worker more than {{ $most }}, and job.partitions is {{ int64 .Values.job.partitions }}: an update would wait for ever; leave both empty, or allow maxUnavailable 1.
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mdp.shortGrace" -}}
{{- $needed := add (int64 .values.preStopSeconds) (int64 .values.longestCommitSeconds) -}}
{{- if le (int64 .values.terminationGracePeriodSeconds) $needed -}}
{{ .what }}.terminationGracePeriodSeconds is {{ int64 .values.terminationGracePeriodSeconds }} and preStopSeconds and longestCommitSeconds are {{ $needed }} together: it must be longer, or a pod is killed within a commit.
{{- end -}}
{{- end -}}

{{- define "mdp.refuse.workerGrace" -}}
{{- include "mdp.shortGrace" (dict "what" "workers" "values" .Values.workers) -}}
{{- end -}}

{{- define "mdp.refuse.coordinatorGrace" -}}
{{- include "mdp.shortGrace" (dict "what" "coordinator" "values" .Values.coordinator) -}}
{{- end -}}

{{- define "mdp.refuse.deployDeadline" -}}
{{- $deploy := .Values.deploy -}}
{{- $number := regexFind "^[0-9]+" $deploy.timeout | int64 -}}
{{- $unit := regexFind "[a-z]+$" $deploy.timeout -}}
{{- $seconds := ternary (div $number 1000) (mul $number (get (dict "ms" 1 "s" 1 "m" 60 "h" 3600) $unit)) (eq $unit "ms") -}}
{{- if and $deploy.enabled (ge $seconds (int64 $deploy.activeDeadlineSeconds)) -}}
deploy.timeout is {{ $deploy.timeout }} and deploy.activeDeadlineSeconds {{ int64 $deploy.activeDeadlineSeconds }}: the Job would be ended in the middle of a drain that may still go on; give it more than {{ $seconds }} seconds, and helm upgrade a --timeout above that.
{{- end -}}
{{- end -}}
