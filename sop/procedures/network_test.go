package procedures_test

import (
	"testing"
	"time"

	"aegis.io/aegis/sop/sitetest"
)

// What is done about the conditions of Ethernet.
func TestNetworkProcedures(t *testing.T) {
	sitetest.Run(t, "network", []sitetest.Incident{
		row("NetworkLinkDown", happy, story{After: 30 * time.Minute}, "handover", "withdrawn"),
		row("NetworkLinkDown", failing, story{}, "handover", "handed over to network"),
		row("NetworkLinkDown", escalation, story{Again: time.Hour}, "handover", "withdrawn, handed over to network"),
		row("NetworkLinkFrequentDown", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("NetworkLinkFrequentDown", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("NetworkLinkFrequentDown", escalation, story{}, isolate+"handover", "handed over to network"),
		row("ICETxTimeout", happy, story{FixedBy: "reboot"}, isolate+"drain, reboot, "+fit, "resolved"),
		row("ICETxTimeout", failing, story{Fails: "reboot"}, isolate+"drain, reboot failed, handover", "handed over to network"),
		row("ICETxTimeout", escalation, story{}, isolate+"drain, reboot, verify failed, handover", "handed over to network"),
		row("GatewayUnreachable", happy, story{After: sitetest.Soon}, "", "noted"),
		row("GatewayUnreachable", failing, story{}, "", "noted"),
		row("GatewayUnreachable", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
	})
}
