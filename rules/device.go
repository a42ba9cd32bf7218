package rules

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

const (
	// maxDeviceBytes bounds the ID of a device.
	maxDeviceBytes = 64
	// maxMessageRunes and maxValueRunes bound the texts of a status.
	maxMessageRunes = 256
	maxValueRunes   = 64
)

var (
	// deviceNode is the name of the device file of a GPU, which some exporters give for its index.
	deviceNode = regexp.MustCompile(`^nvidia([0-9]{1,4})$`)
	// pciAddress is domain:bus:device.function. The domain may be missing.
	pciAddress = regexp.MustCompile(`^([0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]$`)
)

// hasDevice reports whether statuses of the condition name a device.
func (c Condition) hasDevice() bool {
	return c.Device == prom.DeviceIndex || c.Device == prom.DeviceID || c.Device == prom.DeviceMask
}

// deviceID returns the device in the form in which it identifies a status.
func (c Condition) deviceID(device string) string {
	if !c.hasDevice() {
		return ""
	}
	device = strings.TrimSpace(device)
	if c.Device == prom.DeviceIndex {
		if m := deviceNode.FindStringSubmatch(device); m != nil {
			return m[1]
		}
	}
	return device
}

// deviceLabels returns the labels that may hold the ID, in order.
func (c Condition) deviceLabels() []string {
	switch {
	case !c.hasDevice():
		return nil
	case c.IDLabel != "":
		return []string{c.IDLabel}
	case c.Device == prom.DeviceIndex:
		return []string{"gpu", "id", "device"}
	case c.Device == prom.DeviceMask:
		return []string{"id", "mask"}
	default:
		return []string{"id", "device"}
	}
}

// device returns the ID of the device that the labels name. It is empty when they name none.
func (c Condition) device(labels map[string]string) (string, *Drop) {
	for _, label := range c.deviceLabels() {
		id := c.deviceID(labels[label])
		switch {
		case id == "":
			continue
		case len(id) > maxDeviceBytes:
			return "", newDrop(DropLabelTooLong, "the device in label %s has more than %d bytes", label, maxDeviceBytes)
		case !printable(id):
			return "", newDrop(DropInvalid, "the device %s in label %s is not printable", strict.Quote(id), label)
		}
		return id, nil
	}
	return "", nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// pciOf returns the PCI address in the labels, empty when there is none.
func pciOf(labels map[string]string) string {
	for _, label := range []string{"pci_bdf", "pci_bus_id"} {
		if value := labels[label]; pciAddress.MatchString(value) {
			return value
		}
	}
	return ""
}

// message returns the sentence for people in the annotations.
func message(annotations map[string]string) string {
	if text := strict.Clean(annotations["description"], maxMessageRunes); text != "" {
		return text
	}
	return strict.Clean(annotations["summary"], maxMessageRunes)
}
