{{/* The name of every object of the release. Lease and cluster-wide roles carry it too: one release per cluster. */}}
{{- define "aegis.name" -}}
{{- .Chart.Name -}}
{{- end }}

{{- define "aegis.selectorLabels" -}}
app.kubernetes.io/name: {{ include "aegis.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "aegis.labels" -}}
{{ include "aegis.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "aegis.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "aegis.jobsNamespace" -}}
{{ .Values.jobs.namespace | default .Release.Namespace }}
{{- end }}

{{/* aegis.yaml: what the chart knows, under what the values say. */}}
{{- define "aegis.config" -}}
{{- $config := dict
  "mode" .Values.mode
  "conditions" (list "/etc/aegis/conditions.yaml")
  "prometheus" .Values.prometheus
  "alertmanagers" .Values.alertmanagers
  "jobs" (dict
    "namespace" (include "aegis.jobsNamespace" .)
    "image" (include "aegis.image" .)
    "serviceAccount" .Values.serviceAccount.opName
    "templates" "/selfhealing/job")
  "leaderElection" (dict
    "enabled" true
    "namespace" .Release.Namespace
    "name" (include "aegis.name" .)) -}}
{{- if .Values.auth.secretName }}
{{- $tokens := list }}
{{- range .Values.auth.tokens }}
{{- $tokens = append $tokens (dict "file" (printf "/etc/aegis-tokens/%s" .key) "roles" .roles) }}
{{- end }}
{{- $_ := set $config "auth" (dict "tokens" $tokens) }}
{{- end }}
{{- mergeOverwrite $config (deepCopy .Values.config) | toYaml }}
{{- end }}
