// CustomResourceDefinitions, as those who define them publish them, for tests/cluster/openshift.py. Nothing here is built.
module osc.peerpods/tests/definitions

go 1.25.0

require (
	github.com/openshift/api v0.0.0-20240912201240-0a8800162826
	github.com/operator-framework/api v0.27.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
