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
{{- $conditions := list "/etc/aegis/conditions.yaml" }}
{{- range $name, $_ := .Values.conditionFiles }}
{{- $conditions = append $conditions (printf "/etc/aegis/conditions-%s.yaml" $name) }}
{{- end }}
{{- $config := dict
  "mode" .Values.mode
  "conditions" $conditions
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
{{- if eq (get .Values.config "permission" | default (get .Values "permission") | default "alertmanager") "prometheus" }}
{{- $_ := set $config "permission" "prometheus" }}
{{- $_ := unset $config "alertmanagers" }}
{{- end }}
{{- with get .Values "whenAlertmanagerIsAway" }}
{{- if ne . "hold" }}
{{- if eq (get $config "permission" | default "alertmanager") "prometheus" }}
{{- fail "whenAlertmanagerIsAway is for permission: alertmanager. With permission: prometheus, no Alertmanager is asked." }}
{{- end }}
{{- $_ := set $config "whenAlertmanagerIsAway" . }}
{{- end }}
{{- end }}
{{- with get .Values "sources" }}
{{- $_ := set $config "sources" . }}
{{- end }}
{{- with get .Values "preset" }}
{{- $_ := set $config "preset" . }}
{{- end }}
{{- with get .Values "intakeTaints" }}
{{- $_ := set $config "intakeTaints" . }}
{{- end }}
{{- $auth := dict }}
{{- if .Values.auth.secretName }}
{{- $tokens := list }}
{{- range .Values.auth.tokens }}
{{- $tokens = append $tokens (dict "file" (printf "/etc/aegis-tokens/%s" .key) "roles" .roles) }}
{{- end }}
{{- $_ := set $auth "tokens" $tokens }}
{{- end }}
{{- range $section := list "users" "certificates" }}
{{- with get $.Values.auth $section }}
{{- $_ := set $auth $section . }}
{{- end }}
{{- end }}
{{- if $auth }}
{{- $_ := set $config "auth" $auth }}
{{- end }}
{{- include "aegis.validate" . }}
{{- $config = mergeOverwrite $config (deepCopy .Values.config) }}
{{- /* Helm reads an unquoted off as false. */}}
{{- if kindIs "bool" $config.mode }}
{{- $_ := set $config "mode" (ternary "on" "off" $config.mode) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The keys of the taints that a passed check removes, as a list of CEL. */}}
{{- define "aegis.intakeKeys" -}}
{{- $config := include "aegis.config" . | fromYaml -}}
{{- $keys := list }}
{{- range concat (list $config) (get $config "pools" | default list) }}
{{- range get . "intakeTaints" | default list }}
{{- $keys = append $keys (squote .key) }}
{{- end }}
{{- end }}
{{- printf "[%s]" (join ", " ($keys | uniq | sortAlpha)) }}
{{- end }}

{{/* Whether the listeners speak TLS. */}}
{{- define "aegis.scheme" -}}
{{- /* A release of an earlier chart has no such value. */}}
{{- $web := get .Values "web" | default dict -}}
{{- if and (get $web "secretName") (get $web "tls") }}HTTPS{{ else }}HTTP{{ end -}}
{{- end }}

{{/* conditions.yaml: all of its sections that the values have. */}}
{{- define "aegis.conditions" -}}
{{- $file := dict "conditions" .Values.conditions }}
{{- with .Values.defaults }}
{{- $_ := set $file "defaults" . }}
{{- end }}
{{- with .Values.xids }}
{{- $_ := set $file "xids" . }}
{{- end }}
{{- with get .Values "types" }}
{{- $_ := set $file "types" . }}
{{- end }}
{{- toYaml $file }}
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
{{- $actions := list "restart_node" "shutdown_node" "healthcheck_node" "repair_node" "remedy_node" "diagnose_node" }}
{{- range $name, $text := .Values.jobs.templates }}
{{- if not (has $name $actions) }}
{{- fail (printf "jobs.templates.%s: no action uses such a template, use one of %s" $name (join ", " $actions)) }}
{{- end }}
{{- if not (kindIs "string" $text) }}
{{- fail (printf "jobs.templates.%s must be the text of a manifest: use --set-file, or a block that begins with |" $name) }}
{{- end }}
{{- end }}
{{- range $section, $fields := dict "jobs" (list "namespace" "serviceAccount") "leaderElection" (list "namespace" "name") }}
{{- range $fields }}
{{- if hasKey (get $.Values.config $section | default dict) . }}
{{- fail (printf "config.%s.%s cannot be set: the rights of Aegis are for the value of the chart" $section .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
