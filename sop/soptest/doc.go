// Package soptest is the fake cluster that the tests of procedures, playbooks, the ticket store and the simulation share: an API
// server with its nodes, pods, evictions and Leases, machines that boot and carry out Jobs, Prometheus and Alertmanager, and the
// people who use kubectl. It knows the product by its annotations and its Jobs alone, and imports none of the code that it tests.
//
// A Cluster is a sync.Locker. A test holds the lock while it looks at the cluster or changes it; Clients, Caches, Sources and
// Runners, which the code under test is given, take the lock themselves. Time is that of package time, so a test in a
// testing/synctest bubble has virtual time, and any other test the wall's:
//
//	synctest.Test(t, func(t *testing.T) {
//		cluster := soptest.New(soptest.Options{})
//		cluster.Do(func() { cluster.AddNode(soptest.NewNode("gpu-0001")) })
//		client := cluster.NewClient()
//		... give client, client.Jobs() and cluster.Live() to the code under test ...
//		cluster.Do(func() { cluster.Cordon("gpu-0001") }) // A person does.
//	})
//
// Everything that happens by chance is drawn from the seed of the cluster, one sequence for each kind of event, so that a run
// repeats itself however its goroutines interleave. With the zero Weather nothing goes wrong, and with the zero Pace nothing takes
// time.
package soptest
