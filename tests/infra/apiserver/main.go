// Manifests on standard input, one line for each reason why the API server would refuse them on standard output.
//
// The checks are the server's own: strict decoding, defaults, what its registry does on creation, and the Pod Security
// Standard that the manifests' namespace enforces. A JobSet is decoded by the schema of CRD, the first argument, whose
// CEL rules are evaluated, then becomes the Jobs that its controller would make of it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

var strategies = map[schema.GroupKind]rest.RESTCreateStrategy{
	{Group: "batch", Kind: "Job"}:                       job.Strategy,
	{Group: "", Kind: "Namespace"}:                      namespace.Strategy,
	{Group: "", Kind: "Service"}:                        service.Strategy,
	{Group: "", Kind: "ServiceAccount"}:                 serviceaccount.Strategy,
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"}: networkpolicy.Strategy,
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: apiserver CRD < MANIFESTS")
		os.Exit(2)
	}
	jobSets, err := readCRD(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	refused := false
	reader := utilyaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = check(document, jobSets)
		}
		if err != nil {
			fmt.Println(err)
			refused = true
		}
	}
	if refused {
		os.Exit(1)
	}
}

func check(document []byte, jobSets *customResource) error {
	var head metav1.TypeMeta
	if err := yaml.Unmarshal(document, &head); err != nil {
		return err
	}
	if head.GroupVersionKind() == jobSets.kind {
		return checkJobSet(document, jobSets)
	}
	return checkBuiltin(document)
}

// checkBuiltin does what the server does on creation, but for storing it.
func checkBuiltin(document []byte) error {
	decoder := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	external, kind, err := decoder.Decode(document, nil, nil)
	if err != nil {
		return err
	}
	strategy, known := strategies[kind.GroupKind()]
	if !known {
		return fmt.Errorf("%s: no check for this kind", kind)
	}
	if err := checkPodSecurity(external); err != nil {
		return err
	}
	legacyscheme.Scheme.Default(external)
	internal, err := legacyscheme.Scheme.ConvertToVersion(external, runtime.InternalGroupVersioner)
	if err != nil {
		return err
	}
	if found, isService := internal.(*core.Service); isService {
		allocate(found)
	}
	object, err := meta.Accessor(internal)
	if err != nil {
		return err
	}
	rest.FillObjectMetaSystemFields(object)
	ctx := genericapirequest.WithNamespace(context.Background(), object.GetNamespace())
	ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		IsResourceRequest: true, APIGroup: kind.Group, APIVersion: kind.Version, Verb: "create",
	})
	return rest.BeforeCreate(strategy, ctx, internal)
}

// allocate does what comes between a Service and its checks: an address where none is given.
func allocate(found *core.Service) {
	if found.Spec.ClusterIP == "" {
		found.Spec.ClusterIP = "10.0.0.1"
	}
	family := core.IPFamilyPolicySingleStack
	found.Spec.ClusterIPs = []string{found.Spec.ClusterIP}
	found.Spec.IPFamilies = []core.IPFamily{core.IPv4Protocol}
	found.Spec.IPFamilyPolicy = &family
}

// checkPodSecurity applies the restricted profile, which base/common/namespace.yaml asks the server to enforce.
func checkPodSecurity(object runtime.Object) error {
	template := podTemplate(object)
	if template == nil {
		return nil
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	results := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec))
	if !results.Allowed {
		return fmt.Errorf("violates PodSecurity: %s", results.ForbiddenDetail())
	}
	return nil
}

func podTemplate(object runtime.Object) *corev1.PodTemplateSpec {
	if found, isJob := object.(*batchv1.Job); isJob {
		return &found.Spec.Template
	}
	return nil
}
