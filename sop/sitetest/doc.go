// Package sitetest plays the incidents of the catalogue at a site of one node, with everything that the product is made of and the
// cluster of package soptest around it. The tests of the procedures are tables of such incidents: a condition, what happens at the
// site, and the steps and the end that this has to lead to.
//
//	func TestProcedures(t *testing.T) {
//		sitetest.Run(t, "disk", []sitetest.Incident{
//			sitetest.Row("DiskPressure", sitetest.Happy, sitetest.Story{FixedBy: "PruneImages"}, "cordon, remedy, verify, uncordon", "resolved"),
//			...
//		})
//	}
package sitetest
