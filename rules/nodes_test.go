package rules

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func index3() *NodeIndex {
	i := NewNodeIndex()
	i.Set(NodeInfo{Name: "dgx-01", Hostname: "DGX-01", Addresses: []string{"10.0.0.1", "2001:db8::1", "dgx-01.example.com"}})
	i.Set(NodeInfo{Name: "dgx-02", Hostname: "host-02", Addresses: []string{"10.0.0.2", "2001:DB8:0:0::2", "127.0.0.1", "localhost"}})
	i.Set(NodeInfo{Name: "dgx-03", Hostname: "shared", Addresses: []string{"10.0.0.3", "10.0.0.9", "127.0.0.1", "fe80::1"}})
	i.Set(NodeInfo{Name: "dgx-04", Hostname: "shared", Addresses: []string{"10.0.0.4", "10.0.0.9", "fe80::1"}})
	return i
}

func TestNodeIndexLookup(t *testing.T) {
	t.Parallel()
	i := index3()
	found := map[string]string{
		"dgx-01": "dgx-01", "DGX-01": "dgx-01", "dgx-01.example.com": "dgx-01", "dgx-01.example.com:9100": "dgx-01",
		"10.0.0.1": "dgx-01", "10.0.0.1:9100": "dgx-01", "::ffff:10.0.0.1": "dgx-01", "[::ffff:10.0.0.1]:1": "dgx-01",
		"2001:db8::1": "dgx-01", "[2001:db8::1]:9100": "dgx-01", "[2001:db8::1]": "dgx-01", "2001:0DB8::0001": "dgx-01",
		"2001:db8::2": "dgx-02", "host-02:9400": "dgx-02", "dgx-03": "dgx-03",
	}
	for value, want := range found {
		got, err := i.Lookup(value)
		require.NoError(t, err, "%q", value)
		require.Equal(t, want, got, "%q", value)
	}
	for _, value := range []string{
		"", " ", " dgx-01", "dgx", "dgx-0", "dgx-011", "10.0.0.10", "10.0.0.1:", "10.0.0.1:http", "dgx-01:1:2", "localhost", "127.0.0.1:9100",
		"[::1]:9100", "fe80::1", "0.0.0.0", "dgx-01\n", "dgx-.*", `dgx-01"} or vector(1)`, "$(reboot)", strings.Repeat("a", 1<<20),
	} {
		got, err := i.Lookup(value)
		require.ErrorIs(t, err, ErrUnknownNode, "%.50q", value)
		require.Empty(t, got)
		require.Less(t, len(err.Error()), 200)
	}
	for _, value := range []string{"shared", "shared:9100", "10.0.0.9"} {
		_, err := i.Lookup(value)
		require.ErrorIs(t, err, ErrAmbiguousNode, value)
		require.ErrorContains(t, err, "dgx-03 and dgx-04")
	}
}

func TestNodeIndexNameOfOneIsHostnameOfAnother(t *testing.T) {
	t.Parallel()
	i := NewNodeIndex()
	i.Set(NodeInfo{Name: "a"})
	i.Set(NodeInfo{Name: "b", Hostname: "a"})
	_, err := i.Lookup("a")
	require.ErrorIs(t, err, ErrAmbiguousNode)
}

func TestNodeIndexFollowsChanges(t *testing.T) {
	t.Parallel()
	i := index3()
	i.Delete("dgx-04")
	got, err := i.Lookup("shared")
	require.NoError(t, err)
	require.Equal(t, "dgx-03", got)

	i.Set(NodeInfo{Name: "dgx-03", Hostname: "moved", Addresses: []string{"10.0.0.3"}})
	_, err = i.Lookup("shared")
	require.ErrorIs(t, err, ErrUnknownNode)
	got, err = i.Lookup("moved")
	require.NoError(t, err)
	require.Equal(t, "dgx-03", got)

	i.Set(NodeInfo{Name: "dgx-05", Addresses: []string{"10.0.0.3"}})
	_, err = i.Lookup("10.0.0.3")
	require.ErrorIs(t, err, ErrAmbiguousNode)

	i.Delete("never")
	i.Set(NodeInfo{Hostname: "nobody"})
	_, err = i.Lookup("nobody")
	require.ErrorIs(t, err, ErrUnknownNode)
	for _, name := range []string{"dgx-01", "dgx-02", "dgx-03", "dgx-05"} {
		i.Delete(name)
	}
	require.Empty(t, i.keys)
	require.Empty(t, i.byKey, "deleted nodes leave nothing behind")
}

func TestNodeIndexConcurrently(t *testing.T) {
	t.Parallel()
	i := index3()
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			name := fmt.Sprintf("w%d", worker)
			for n := range 200 {
				i.Set(NodeInfo{Name: name, Hostname: "everyone", Addresses: []string{fmt.Sprintf("10.1.%d.%d", worker, n)}})
				if got, err := i.Lookup(name); err != nil || got != name {
					t.Errorf("%s is %q, %v", name, got, err)
				}
				if got, err := i.Lookup("dgx-01"); err != nil || got != "dgx-01" {
					t.Errorf("dgx-01 is %q, %v", got, err)
				}
				i.Delete(name)
			}
		})
	}
	wg.Wait()
	_, err := i.Lookup("everyone")
	require.ErrorIs(t, err, ErrUnknownNode)
}
