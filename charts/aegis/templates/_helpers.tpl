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
{{- include "aegis.validate" . }}
{{- mergeOverwrite $config (deepCopy .Values.config) | toYaml }}
{{- end }}

{{/* Binds a role to the service account of Aegis: (list root kind role namespace); without a namespace in the whole cluster. */}}
{{- define "aegis.binding" -}}
{{- $root := index . 0 -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "RoleBinding" "ClusterRoleBinding" (ne (index . 3) "") }}
metadata:
  name: {{ index . 2 }}
  {{- with index . 3 }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "aegis.labels" $root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ index . 1 }}
  name: {{ index . 2 }}
subjects:
- kind: ServiceAccount
  name: {{ $root.Values.serviceAccount.name }}
  namespace: {{ $root.Release.Namespace }}
{{- end }}

{{/* The rights name the Lease and the namespaces, so `config` must not say anything else of them. */}}
{{- define "aegis.validate" -}}
{{- range $section, $fields := dict "jobs" (list "namespace" "serviceAccount") "leaderElection" (list "namespace" "name") }}
{{- range $fields }}
{{- if hasKey (get $.Values.config $section | default dict) . }}
{{- fail (printf "config.%s.%s cannot be set: the rights of Aegis are for the value of the chart" $section .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
