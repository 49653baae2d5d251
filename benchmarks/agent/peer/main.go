// What the node-capacity agent is measured against: a controller of the usual making, by client-go.
//
// Informers mirror nodes and PeerPodConfigs, a work queue feeds workers, and each node that differs
// gets upstream's JSON patch. It is the peer in its best shape: upstream's own controller patches
// one node after the other, only when a PeerPodConfig changes, and at client-go's own 5 QPS.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
}

func main() {
	// What controller-runtime set until 0.21, which took the limit away: -qps=-1.
	qps := flag.Float64("qps", 20, "requests a second; negative: no limit")
	burst := flag.Int("burst", 30, "requests at once")
	workers := flag.Int("workers", 1, "nodes at once; 1 is controller-runtime's default")
	namespace := flag.String("namespace", "", "where the PeerPodConfigs are")
	resource := flag.String("resource", "kata.peerpods.io/vm", "what the nodes advertise")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		log.Fatalf("No cluster to talk to: %v. Set KUBECONFIG.", err)
	}
	config.QPS, config.Burst = float32(*qps), *burst
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = runtime.ContentTypeProtobuf
	client := kubernetes.NewForConfigOrDie(protobuf)

	nodes := informers.NewSharedInformerFactory(client, 0)
	configs := dynamicinformer.NewFilteredDynamicSharedInformerFactory(
		dynamic.NewForConfigOrDie(config), 0, *namespace, nil)
	c := &controller{
		client:  client,
		nodes:   nodes.Core().V1().Nodes().Lister(),
		configs: configs.ForResource(peerPodConfigs).Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.DefaultTypedControllerRateLimiter[string]()),
		resource: *resource,
	}
	nodes.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(node any) { c.queue.Add(node.(*corev1.Node).Name) },
		UpdateFunc: func(_, node any) { c.queue.Add(node.(*corev1.Node).Name) },
	})
	configs.ForResource(peerPodConfigs).Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.enqueueAll() },
		UpdateFunc: func(_, _ any) { c.enqueueAll() },
		DeleteFunc: func(any) { c.enqueueAll() },
	})
	nodes.Start(ctx.Done())
	configs.Start(ctx.Done())
	nodes.WaitForCacheSync(ctx.Done())
	configs.WaitForCacheSync(ctx.Done())
	for range *workers {
		go c.work(ctx)
	}
	<-ctx.Done()
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
			log.Printf("Will try again: %v", err)
			c.queue.AddRateLimited(name)
		} else {
			c.queue.Forget(name)
		}
		c.queue.Done(name)
	}
}

// reconcile patches the node where it does not advertise what the last PeerPodConfig that selects
// it says.
func (c *controller) reconcile(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if err != nil {
		return nil // It is gone.
	}
	configs, err := c.configs.List(labels.Everything())
	if err != nil {
		return err
	}
	limit := ""
	for _, config := range configs {
		object := config.(*unstructured.Unstructured).Object
		selector, _, _ := unstructured.NestedStringMap(object, "spec", "nodeSelector")
		if labels.SelectorFromSet(selector).Matches(labels.Set(node.Labels)) {
			limit, _, _ = unstructured.NestedString(object, "spec", "limit")
		}
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
