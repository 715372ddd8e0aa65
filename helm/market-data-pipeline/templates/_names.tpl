{{/* Names and labels. With what is appended the names of Services, and a StatefulSet's name with a hash, fit in 63. */}}
{{- define "mdp.fullname" -}}
{{- $name := default .Release.Name .Values.fullnameOverride | replace "." "-" -}}
{{- if le (len $name) 40 -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" (trunc 35 $name | trimSuffix "-") (sha256sum $name | trunc 4) -}}
{{- end -}}
{{- end -}}

{{- define "mdp.selector" -}}
app.kubernetes.io/name: market-data-pipeline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "mdp.labels" -}}
{{ include "mdp.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: market-data-pipeline
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mdp.serviceAccount" -}}
{{- $account := .Values.serviceAccount -}}
{{- default (ternary (include "mdp.fullname" .) "default" $account.create) $account.name -}}
{{- end -}}

{{/* Whether values hold an integral number, and as text: Go prints 1000000 of a values file as 1e+06. */}}
{{- define "mdp.scalar" -}}
{{- if and (kindIs "float64" .) (eq . (float64 (int64 .))) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* The most workers there can be at one time. */}}
{{- define "mdp.mostWorkers" -}}
{{- if .Values.autoscaling.enabled -}}{{ int64 .Values.autoscaling.maxReplicas }}{{- else -}}{{ int64 .Values.workers.replicas }}{{- end -}}
{{- end -}}
