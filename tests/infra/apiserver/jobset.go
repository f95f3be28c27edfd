package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
	apiservercel "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

type customResource struct {
	kind       runtimeschema.GroupVersionKind
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

func readCRD(path string) (*customResource, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &crd); err != nil {
		return nil, err
	}
	var internal apiextensions.JSONSchemaProps
	source := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(source, &internal, nil); err != nil {
		return nil, err
	}
	structural, err := structuralschema.NewStructural(&internal)
	if err != nil {
		return nil, err
	}
	if problems := structuralschema.ValidateStructural(nil, structural); len(problems) > 0 {
		return nil, problems.ToAggregate()
	}
	schema, _, err := validation.NewSchemaValidator(&internal)
	if err != nil {
		return nil, err
	}
	kind := runtimeschema.GroupVersionKind{
		Group: crd.Spec.Group, Version: crd.Spec.Versions[0].Name, Kind: crd.Spec.Names.Kind,
	}
	return &customResource{kind, structural, schema, cel.NewValidator(structural, true, apiservercel.PerCallLimit)}, nil
}

// checkJobSet refuses what the API server would by the CRD, then what it would of the Jobs made of it.
func checkJobSet(document []byte, crd *customResource) error {
	text, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return err
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		return err
	}
	options := structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	if unknown := pruning.PruneWithOptions(object, crd.structural, true, options); len(unknown) > 0 {
		return fmt.Errorf("unknown fields: %v", unknown)
	}
	defaulting.Default(object, crd.structural)
	problems := validation.ValidateCustomResource(nil, object, crd.schema)
	problems = append(problems, listtype.ValidateListSetsAndMaps(nil, crd.structural, object)...)
	ruled, _ := crd.rules.Validate(context.Background(), nil, crd.structural, object, nil, math.MaxInt64)
	if problems = append(problems, ruled...); len(problems) > 0 {
		return problems.ToAggregate()
	}
	return checkJobs(object)
}

func checkJobs(set map[string]any) error {
	var problems []error
	replicated, _, _ := unstructured.NestedSlice(set, "spec", "replicatedJobs")
	for _, entry := range replicated {
		job, err := yaml.Marshal(jobOf(set, entry.(map[string]any)))
		if err == nil {
			err = checkBuiltin(job)
		}
		if err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// jobOf is the last Job of a replicated one, with the defaults of JobSet's webhook and the names of its controller.
// https://jobset.sigs.k8s.io/docs/concepts/
func jobOf(set, replicated map[string]any) map[string]any {
	name, _, _ := unstructured.NestedString(set, "metadata", "name")
	namespace, _, _ := unstructured.NestedString(set, "metadata", "namespace")
	subdomain, given, _ := unstructured.NestedString(set, "spec", "network", "subdomain")
	if !given {
		subdomain = name
	}
	spec, _, _ := unstructured.NestedMap(replicated, "template", "spec")
	if _, given := spec["completionMode"]; !given {
		spec["completionMode"] = string(batchv1.IndexedCompletion)
	}
	pod, _, _ := unstructured.NestedMap(spec, "template", "spec")
	if _, given := pod["restartPolicy"]; !given {
		pod["restartPolicy"] = string(corev1.RestartPolicyOnFailure)
	}
	pod["subdomain"] = subdomain
	_ = unstructured.SetNestedMap(spec, pod, "template", "spec")
	return map[string]any{
		"apiVersion": "batch/v1",
		"kind":       "Job",
		"metadata": map[string]any{
			"name":      fmt.Sprintf("%s-%s-%d", name, replicated["name"], replicated["replicas"].(int64)-1),
			"namespace": namespace,
		},
		"spec": spec,
	}
}
