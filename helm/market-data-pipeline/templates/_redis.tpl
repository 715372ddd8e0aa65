{{/*
The server as one map (YAML), by names that KEDA finds from its own namespace, too: url without credentials, scheme, tls, sentinel, addresses (list of host:port), master,
database, ports (all that pods connect to). What was given in redis.url is taken apart, because KEDA wants host:port.
*/}}
{{- define "mdp.redis" -}}
{{- $redis := .Values.redis -}}
{{- $found := dict "scheme" "" "addresses" list "master" "" "database" (int64 $redis.database) -}}
{{- $ports := list -}}
{{- if .Values.valkey.enabled -}}
{{- $_ := set $found "scheme" "redis" -}}
{{- $_ := set $found "addresses" (list (printf "%s-valkey.%s.svc:6379" (include "mdp.fullname" .) .Release.Namespace)) -}}
{{- else if $redis.url -}}
{{- $_ := set $found "scheme" (regexFind "^[a-z+]+" $redis.url) -}}
{{- $rest := regexReplaceAll "^[a-z+]*://" $redis.url "" -}}
{{- $parts := splitList "/" $rest -}}
{{- $_ := set $found "addresses" (compact (splitList "," (first $parts))) -}}
{{- $path := rest $parts -}}
{{- if hasSuffix "sentinel" $found.scheme -}}
{{- $_ := set $found "master" (first (append $path "")) -}}
{{- $path = rest (append $path "") -}}
{{- end -}}
{{- $_ := set $found "database" (int64 (default "0" (first (append $path "0")))) -}}
{{- else if $redis.sentinel.enabled -}}
{{- $_ := set $found "scheme" (ternary "rediss+sentinel" "redis+sentinel" $redis.tls.enabled) -}}
{{- $_ := set $found "addresses" $redis.sentinel.addresses -}}
{{- $_ := set $found "master" $redis.sentinel.master -}}
{{- else if $redis.host -}}
{{- $_ := set $found "scheme" (ternary "rediss" "redis" $redis.tls.enabled) -}}
{{- $_ := set $found "addresses" (list (printf "%s:%d" $redis.host (int64 $redis.port))) -}}
{{- end -}}
{{- $sentinel := hasSuffix "sentinel" $found.scheme -}}
{{- $default := ternary "26379" "6379" $sentinel -}}
{{- $addresses := list -}}
{{- range $found.addresses -}}
{{- $address := ternary . (printf "%s:%s" . $default) (regexMatch ":[0-9]+$" .) -}}
{{- $addresses = append $addresses $address -}}
{{- $ports = append $ports (last (splitList ":" $address)) -}}
{{- end -}}
{{- if $sentinel -}}{{- $ports = append $ports (printf "%d" (int64 $redis.port)) -}}{{- end -}}
{{- $path := ternary (printf "/%s" $found.master) "" $sentinel -}}
{{- if $found.database -}}{{- $path = printf "%s/%d" $path (int64 $found.database) -}}{{- end -}}
{{- $_ := set $found "url" (printf "%s://%s%s" $found.scheme (join "," $addresses) $path) -}}
{{- $_ := set $found "addresses" $addresses -}}
{{- $_ := set $found "ports" (uniq $ports) -}}
{{- $_ := set $found "sentinel" $sentinel -}}
{{- $_ := set $found "tls" (hasPrefix "rediss" $found.scheme) -}}
{{- toYaml $found -}}
{{- end -}}

{{/* Name of the Secret with users and passwords; empty where the server asks for none. */}}
{{- define "mdp.redisSecret" -}}
{{- if .Values.redis.auth.create -}}
{{- printf "%s-redis" (include "mdp.fullname" .) -}}
{{- else if not .Values.redis.auth.disabled -}}
{{- .Values.redis.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* Keys of a role in that Secret: username may be empty. */}}
{{- define "mdp.redisKeys" -}}
{{- if .root.Values.redis.auth.create -}}
{{- toYaml (dict "username" (ternary "username" "" (ne .root.Values.redis.auth.username "")) "password" "password") -}}
{{- else -}}
{{- toYaml (get .root.Values.redis.keys .role) -}}
{{- end -}}
{{- end -}}
