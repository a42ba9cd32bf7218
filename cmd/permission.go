package cmd

import (
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/strict"
)

// validatePermission says what is wrong with who permits to act.
func (c config) validatePermission() error {
	var errs []error
	if !slices.Contains(queue.Permitters(), c.Permission) {
		errs = append(errs, mistakef("permission", "%q is unknown, %s", c.Permission, strict.Hint(string(c.Permission), queue.Permitters())))
	}
	if !slices.Contains(queue.AwayChoices(), c.WhenAway) {
		errs = append(errs, mistakef("whenAlertmanagerIsAway", "%q is unknown, %s", c.WhenAway, strict.Hint(string(c.WhenAway), queue.AwayChoices())))
	}
	if c.AwayAfter < queue.LeastAwayAfter {
		errs = append(errs, mistakef("alertmanagerAwayAfter", "%s is too short: must be at least %s", c.AwayAfter, queue.LeastAwayAfter))
	}
	switch {
	case c.Permission == queue.PermitPrometheus && len(c.Alertmanagers) > 0:
		errs = append(errs, mistakef("alertmanagers", "are not asked with permission: prometheus: remove them, or set permission to alertmanager"))
	case c.Permission == queue.PermitPrometheus && len(c.Prometheus.all()) == 0:
		errs = append(errs, mistakef("permission", "is prometheus, and prometheus.url is missing"))
	case c.Permission == queue.PermitPrometheus && c.WhenAway == queue.AwayIsolate:
		errs = append(errs, mistakef("whenAlertmanagerIsAway", "needs permission: alertmanager: no Alertmanager is asked otherwise"))
	case c.WhenAway == queue.AwayIsolate && len(c.Alertmanagers) == 0:
		errs = append(errs, mistakef("whenAlertmanagerIsAway", "is isolate, and no alertmanagers are named"))
	}
	return errors.Join(errs...)
}

// missing says which field keeps every condition from being repaired. Empty means that none does.
func (c config) missing() string {
	switch {
	case len(c.Prometheus.all()) == 0:
		return "prometheus.url is missing, so that nothing confirms a condition: set it"
	case c.Permission == queue.PermitAlertmanager && len(c.Alertmanagers) == 0:
		return "no alertmanagers are named, so that nothing permits a repair: name them, or set permission: prometheus"
	}
	return ""
}

// inVain returns the conditions that are to be repaired, by their modes and the orders.
func inVain(catalogue *rules.Catalogue, orders policy.Orders) (names []string) {
	for _, c := range catalogue.Conditions() {
		mode := orders.Apply(prom.AegisNodeStatus{Condition: c.Name, Policy: c.Policy}).Policy.Mode
		if c.SOP != "" && (mode == prom.ModeApprove || mode == prom.ModeAuto) {
			names = append(names, c.Name)
		}
	}
	return names
}

// nothingHeals says in a sentence that the configuration keeps conditions from being repaired which are to be. Empty means that it
// does not.
func (c config) nothingHeals(catalogue *rules.Catalogue) string {
	missing, names := c.missing(), inVain(catalogue, policy.Orders{})
	if missing == "" || len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("nothing will be repaired, although the mode of %s is approve or auto: %s", andMore(names), missing)
}

// andMore names the first of many.
func andMore(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}

// warnOfVain tells once, and in a metric for as long as it is so, that conditions cannot be repaired.
func (a *app) warnOfVain(reg prometheus.Registerer) {
	if text := a.cfg.nothingHeals(a.config.rules.Current()); text != "" {
		a.logger.Warn("configuration repairs nothing", "err", text)
	}
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "aegis_conditions_unrepairable",
		Help: "Conditions in mode approve or auto that cannot be repaired, because aegis.yaml names no Prometheus, or nobody that permits a repair.",
	}, func() float64 {
		if a.cfg.missing() == "" {
			return 0
		}
		return float64(len(inVain(a.config.rules.Current(), a.dispatcher.Orders())))
	})
}

// news takes what a webhook tells where Prometheus permits: it proves nothing, and has Prometheus asked.
type news struct{ ask func() }

// Observe asks for a pass soon.
func (n news) Observe(...prom.Observation) { n.ask() }
