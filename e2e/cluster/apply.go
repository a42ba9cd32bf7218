package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// Apply applies a YAML file, or every YAML file below a folder, in the order of their names.
func (c *Cluster) Apply(ctx context.Context, path string) error {
	return filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		if ext := filepath.Ext(file); entry.IsDir() || ext != ".yaml" && ext != ".yml" {
			return nil
		}
		manifests, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		if err := c.ApplyYAML(ctx, manifests); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		return nil
	})
}

// ApplyYAML applies every document, from the first to the last. An object without a namespace that needs one goes into
// the namespace default.
func (c *Cluster) ApplyYAML(ctx context.Context, manifests []byte) error {
	objects, err := decode(manifests)
	if err != nil {
		return err
	}
	// Anew each time: an earlier document may have been a CustomResourceDefinition.
	disco, err := discovery.NewDiscoveryClientForConfig(c.config)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	resources, err := restmapper.GetAPIGroupResources(disco)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(resources)
	for _, o := range objects {
		if err := apply(ctx, client, mapper, o); err != nil {
			return fmt.Errorf("apply %s %q: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

func apply(ctx context.Context, client dynamic.Interface, mapper meta.RESTMapper, o *unstructured.Unstructured) error {
	gvk := o.GroupVersionKind()
	mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return err
	}
	var resource dynamic.ResourceInterface = client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := o.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		resource = client.Resource(mapping.Resource).Namespace(namespace)
	}
	_, err = resource.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "e2e", Force: true})
	return err
}

func decode(manifests []byte) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	var objects []*unstructured.Unstructured
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		switch {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, fmt.Errorf("decode manifests: %w", err)
		case len(o.Object) > 0:
			objects = append(objects, o)
		}
	}
}

// GrantAegis gives the service account of Aegis the rights that the chart gives it, within the limits that the chart sets them.
func (c *Cluster) GrantAegis(ctx context.Context) error {
	if err := c.Namespaces(ctx, "monitoring"); err != nil {
		return err
	}
	for _, folder := range []string{"rbac", "admission"} {
		if err := c.Apply(ctx, filepath.Join(c.o.BinDir, "..", "charts", "aegis", folder)); err != nil {
			return err
		}
	}
	return nil
}
