package main

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/e2e/testenv"
)

// startWorkload runs what a cluster like this runs: a training job per node, guarded by a disruption budget, and the device
// plugin on every node.
func startWorkload(ctx context.Context, l *testenv.Environment) error {
	if err := l.Cluster.Namespaces(ctx, "train"); err != nil {
		return err
	}
	return l.Cluster.ApplyYAML(ctx, []byte(workload))
}

// completeJobs ends the training pods on the node with success, and returns how many there were.
func completeJobs(ctx context.Context, l *testenv.Environment, node string) (int, error) {
	pods := l.Cluster.Client().CoreV1().Pods("train")
	list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return 0, fmt.Errorf("list training pods: %w", err)
	}
	patch := []byte(`{"metadata":{"annotations":{"e2e.aegis.io/complete":"true"}}}`)
	for _, p := range list.Items {
		if _, err := pods.Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return 0, fmt.Errorf("end training pod: %w", err)
		}
	}
	return len(list.Items), nil
}

const workload = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: trainer, namespace: train}
spec:
  replicas: 16
  selector: {matchLabels: {app: trainer}}
  template:
    metadata: {labels: {app: trainer}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: trainer
        image: example/trainer:1
        resources: {limits: {nvidia.com/gpu: 4}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: trainer, namespace: train}
spec:
  maxUnavailable: 4
  selector: {matchLabels: {app: trainer}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: nvidia-device-plugin, namespace: kube-system}
spec:
  selector: {matchLabels: {name: nvidia-device-plugin-ds}}
  template:
    metadata: {labels: {name: nvidia-device-plugin-ds}}
    spec:
      priorityClassName: system-node-critical
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: plugin
        image: example/device-plugin:1
`
