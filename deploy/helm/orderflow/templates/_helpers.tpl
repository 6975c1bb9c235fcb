{{/* The modules that have a deployment. */}}
{{- define "orderflow.deployments" -}}
gateway
{{- if not .Values.oneProcess }},orders,payments{{ if .Values.webhooks }},webhooks{{ end }}{{ end }}
{{- end }}

{{/* The deployment that runs a module: dict "root" $ "module" name. */}}
{{- define "orderflow.runs" -}}
{{ if .root.Values.oneProcess }}gateway{{ else }}{{ .module }}{{ end }}
{{- end }}

{{- define "orderflow.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Name, namespace and labels of an object: dict "root" $ "name" name "component" true or false. */}}
{{- define "orderflow.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  app.kubernetes.io/part-of: orderflow
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
  {{- if .component }}
  app.kubernetes.io/component: {{ .name }}
  {{- end }}
{{- end }}

{{/* The labels that select a component's pods. */}}
{{- define "orderflow.selector" -}}
app.kubernetes.io/name: orderflow
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* What every pod has in its metadata: dict "root" $ "name" component. A change of a config map or of a secret made here rolls over. */}}
{{- define "orderflow.podMetadata" -}}
labels:
  {{- include "orderflow.selector" .name | nindent 2 }}
  app.kubernetes.io/part-of: orderflow
annotations:
  checksum/config: {{ include (print .root.Template.BasePath "/config.yaml") .root | sha256sum }}
  checksum/secrets: {{ include (print .root.Template.BasePath "/secrets.yaml") .root | sha256sum }}
{{- end }}

{{/* What every pod has in its spec: dict "root" $ "name" component. */}}
{{- define "orderflow.podSpec" -}}
serviceAccountName: {{ .name }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
volumes:
  - name: secrets
    secret:
      secretName: {{ include "orderflow.secret" . }}
      defaultMode: 0440
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- end }}

{{- define "orderflow.secret" -}}
{{- $own := index .root.Values.secrets .name -}}
{{ if $own.mongodbUri }}{{ .name }}{{ else }}{{ required (printf "secrets.%s: existing or mongodbUri" .name) $own.existing }}{{ end }}
{{- end }}

{{/* What every container has, but for its resources. */}}
{{- define "orderflow.container" -}}
image: {{ include "orderflow.image" . | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: secrets, mountPath: /run/secrets/orderflow, readOnly: true}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{/* The files of Stripe, for a process that makes the payment provider. */}}
{{- define "orderflow.stripe" -}}
{{- if eq .Values.provider "stripe" }}
- {name: STRIPE_SECRET_KEY_FILE, value: /run/secrets/orderflow/stripe-secret-key}
- {name: STRIPE_WEBHOOK_SECRET_FILE, value: /run/secrets/orderflow/stripe-webhook-secret}
{{- end }}
{{- end }}

{{/* All addresses but those of private networks. */}}
{{- define "orderflow.internet" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 168.63.129.16/32, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3]
- ipBlock:
    cidr: 2000::/3
    except: [2002::/16]
{{- end }}
