// The peer of the node-capacity agent in the benchmark: a conventional controller built on client-go.
//
// Informers mirror nodes and PeerPodConfigs, a work queue feeds workers, and each node that differs
// gets upstream's JSON patch. It is faster than upstream's own controller, which patches one node
// after the other, only when a PeerPodConfig changes, and at client-go's default of 5 QPS.
//
// With -limits it does the same on the second generation of the operator, which has no peer of its
// own: the limit is the entry default of that ConfigMap, for nodes with the labels of -selector and
// a Ready cloud-api-adaptor pod.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

var peerPodConfigs = schema.GroupVersionResource{
	Group: "confidentialcontainers.org", Version: "v1alpha1", Resource: "peerpodconfigs",
}

type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value string `json:"value"`
}

type controller struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	configs  cache.GenericLister
	queue    workqueue.TypedRateLimitingInterface[string]
	resource string

	// Of the second generation; nil and empty on the first.
	limits   corelisters.ConfigMapLister
	adaptors cache.Indexer
	selector labels.Selector
}

func main() {
	// The default of controller-runtime until 0.21. Newer releases have no limit: -qps=-1.
	qps := flag.Float64("qps", 20, "requests a second; negative: no limit")
	burst := flag.Int("burst", 30, "burst of requests")
	workers := flag.Int("workers", 1, "number of workers; controller-runtime's default is 1")
	namespace := flag.String("namespace", "", "namespace of the PeerPodConfigs")
	resource := flag.String("resource", "kata.peerpods.io/vm", "resource that the nodes advertise")
	limits := flag.String("limits", "", "namespace/name of the ConfigMap with the limits, instead of PeerPodConfigs")
	adaptor := flag.String("adaptor", "", "label name of cloud-api-adaptor's pods, with -limits")
	selector := flag.String("selector", "", "labels of the nodes, with -limits")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		log.Fatalf("Loading the kubeconfig failed: %v. Set KUBECONFIG.", err)
	}
	config.QPS, config.Burst = float32(*qps), *burst
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = runtime.ContentTypeProtobuf
	client := kubernetes.NewForConfigOrDie(protobuf)

	nodes := informers.NewSharedInformerFactory(client, 0)
	c := &controller{
		client: client,
		nodes:  nodes.Core().V1().Nodes().Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.DefaultTypedControllerRateLimiter[string]()),
		resource: *resource,
	}
	nodes.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(node any) { c.queue.Add(node.(*corev1.Node).Name) },
		UpdateFunc: func(_, node any) { c.queue.Add(node.(*corev1.Node).Name) },
	})
	nodes.Start(ctx.Done())
	nodes.WaitForCacheSync(ctx.Done())
	if *limits == "" {
		c.followConfigs(ctx, dynamic.NewForConfigOrDie(config), *namespace)
	} else {
		if c.selector, err = labels.Parse(*selector); err != nil {
			log.Fatalf("-selector: %v", err)
		}
		c.followLimits(ctx, client, *limits, *namespace, *adaptor)
	}
	for range *workers {
		go c.work(ctx)
	}
	<-ctx.Done()
}

func (c *controller) followConfigs(ctx context.Context, client dynamic.Interface, namespace string) {
	configs := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, namespace, nil)
	c.configs = configs.ForResource(peerPodConfigs).Lister()
	configs.ForResource(peerPodConfigs).Informer().AddEventHandler(c.all())
	configs.Start(ctx.Done())
	configs.WaitForCacheSync(ctx.Done())
}

func (c *controller) followLimits(
	ctx context.Context, client kubernetes.Interface, limits, namespace, adaptor string,
) {
	own, name, _ := strings.Cut(limits, "/")
	maps := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(own),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		}))
	pods := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = "name=" + adaptor
		}))
	informer := pods.Core().V1().Pods().Informer()
	informer.AddIndexers(cache.Indexers{"node": func(pod any) ([]string, error) {
		return []string{pod.(*corev1.Pod).Spec.NodeName}, nil
	}})
	c.adaptors = informer.GetIndexer()
	c.limits = maps.Core().V1().ConfigMaps().Lister()
	informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(pod any) { c.queue.Add(pod.(*corev1.Pod).Spec.NodeName) },
		UpdateFunc: func(_, pod any) { c.queue.Add(pod.(*corev1.Pod).Spec.NodeName) },
	})
	maps.Core().V1().ConfigMaps().Informer().AddEventHandler(c.all())
	for _, factory := range []informers.SharedInformerFactory{pods, maps} {
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
	}
}

// all enqueues every node after any change.
func (c *controller) all() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.enqueueAll() },
		UpdateFunc: func(_, _ any) { c.enqueueAll() },
		DeleteFunc: func(any) { c.enqueueAll() },
	}
}

func (c *controller) enqueueAll() {
	nodes, _ := c.nodes.List(labels.Everything())
	for _, node := range nodes {
		c.queue.Add(node.Name)
	}
}

func (c *controller) work(ctx context.Context) {
	for {
		name, _ := c.queue.Get()
		if err := c.reconcile(ctx, name); err != nil {
			log.Printf("Retrying: %v", err)
			c.queue.AddRateLimited(name)
		} else {
			c.queue.Forget(name)
		}
		c.queue.Done(name)
	}
}

// limit returns the limit of the last PeerPodConfig that selects the node, or of the ConfigMap; empty: no limit.
func (c *controller) limit(node *corev1.Node) (string, error) {
	if c.limits != nil {
		return c.secondLimit(node)
	}
	configs, err := c.configs.List(labels.Everything())
	if err != nil {
		return "", err
	}
	limit := ""
	for _, config := range configs {
		object := config.(*unstructured.Unstructured).Object
		selector, _, _ := unstructured.NestedStringMap(object, "spec", "nodeSelector")
		if labels.SelectorFromSet(selector).Matches(labels.Set(node.Labels)) {
			limit, _, _ = unstructured.NestedString(object, "spec", "limit")
		}
	}
	return limit, nil
}

func (c *controller) secondLimit(node *corev1.Node) (string, error) {
	if !c.selector.Matches(labels.Set(node.Labels)) || !c.ready(node.Name) {
		return "", nil
	}
	maps, err := c.limits.List(labels.Everything())
	if err != nil || len(maps) == 0 {
		return "", err
	}
	var entry struct{ Limit int }
	if err := json.Unmarshal([]byte(maps[0].Data["default"]), &entry); err != nil {
		return "", err
	}
	return strconv.Itoa(entry.Limit), nil
}

func (c *controller) ready(node string) bool {
	pods, _ := c.adaptors.ByIndex("node", node)
	for _, pod := range pods {
		for _, condition := range pod.(*corev1.Pod).Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return true
			}
		}
	}
	return false
}

// reconcile patches the node if it does not advertise its limit.
func (c *controller) reconcile(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if err != nil {
		return nil // The node has been deleted.
	}
	limit, err := c.limit(node)
	if err != nil {
		return err
	}
	capacity := node.Status.Capacity[corev1.ResourceName(c.resource)]
	allocatable := node.Status.Allocatable[corev1.ResourceName(c.resource)]
	if limit == "" || (capacity.String() == limit && allocatable.String() == limit) {
		return nil
	}
	key := strings.ReplaceAll(c.resource, "/", "~1")
	// Upstream leaves allocatable to the kubelet, which a simulated node does not have.
	patch, err := json.Marshal([]operation{
		{"add", "/status/capacity/" + key, limit},
		{"add", "/status/allocatable/" + key, limit},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(
		ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
