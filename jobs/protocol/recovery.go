package protocol

// What the driver of an NVIDIA GPU asks for, in the words of its XID 154. A driver of the years to come may use others.
const (
	RecoveryNone          = "None"
	RecoveryDrainP2P      = "Drain P2P"
	RecoveryReset         = "GPU Reset Required"
	RecoveryDrainAndReset = "Drain and Reset"
	RecoveryReboot        = "Node Reboot Required"
)

// MostRecovery returns the one of the texts that asks for most. One that nobody knows asks for people to look.
func MostRecovery(texts ...string) string {
	most := ""
	for _, text := range texts {
		if strength(text) > strength(most) {
			most = text
		}
	}
	return most
}

func strength(recovery string) int {
	switch recovery {
	case "":
		return 0
	case RecoveryNone:
		return 1
	case RecoveryReset, RecoveryDrainAndReset:
		return 3
	case RecoveryReboot:
		return 4
	}
	return 2
}
