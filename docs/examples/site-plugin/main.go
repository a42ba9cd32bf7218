// Command aegis is Aegis with the procedures of a site beside those of the product.
package main

import (
	"aegis.io/aegis/cmd"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/procedures"

	"example.org/site-plugin/storage"
)

func main() {
	cmd.Main(procedures.Table(), sop.Table{storage.RemountSOP: storage.NewRemount})
}
