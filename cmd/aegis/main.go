// Command aegis keeps the nodes of AI and HPC clusters in service: it receives alerts, decides what may be done about
// them, does it through Kubernetes, and writes on each node what it did.
package main

import (
	"aegis.io/aegis/cmd"
	"aegis.io/aegis/sop/procedures"
)

func main() {
	cmd.Main(procedures.Table())
}
