{{/* Name of every object of the release; the releases "marty" and "marty-operator" are both called marty-operator. */}}
{{- define "marty-operator.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else if hasPrefix (printf "%s-" .Release.Name) .Chart.Name -}}
{{- .Chart.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Names of cluster-wide objects: two releases in two namespaces must not share one. */}}
{{- define "marty-operator.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "marty-operator.fullname" .) -}}
{{- end -}}

{{- define "marty-operator.selectorLabels" -}}
app.kubernetes.io/name: marty-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "marty-operator.labels" -}}
{{ include "marty-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: marty
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "marty-operator.image" -}}
{{- .Values.images.operator | default (printf "marty-operator:%s" .Chart.AppVersion) -}}
{{- end -}}

{{- define "marty-operator.runtimeImage" -}}
{{- .Values.images.runtime | default (printf "marty-runtime:%s" .Chart.AppVersion) -}}
{{- end -}}

{{/* What the operator may do in each namespace that it serves. */}}
{{- define "marty-operator.namespaceRules" -}}
- apiGroups: [consistency.marty.dev]
  resources: [sagas, outboxrelays, projections]
  verbs: [get, list, watch]
- apiGroups: [consistency.marty.dev]
  resources: [sagas/status, outboxrelays/status, projections/status]
  verbs: [patch]
# An owner reference that blocks the owner's deletion needs this where the API server enforces it.
- apiGroups: [consistency.marty.dev]
  resources: [sagas/finalizers, outboxrelays/finalizers, projections/finalizers]
  verbs: [update]
# Deleting them is left to the garbage collector.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
# Never list or watch: a Secret is read by the name that a resource gives.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
