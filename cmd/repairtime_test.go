package cmd

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
)

const (
	repairTimePage  = "../docs/time-to-repair.md"
	repairTimeBegin = "<!-- budgets -->\n"
	repairTimeEnd   = "<!-- /budgets -->\n"
	measuredTimes   = "../e2e/cmd/repairtimes/measured.yaml"
)

// What a site brings along. The page says so.
const (
	// assumedInterval is the default of the Prometheus Operator, for scrapes and for groups of rules that name no interval.
	assumedInterval = 30 * time.Second
	// nodeGrace is for how long a kubelet may be silent before Kubernetes 1.32 and newer call its node not ready.
	nodeGrace = 50 * time.Second
	// passTimeout bounds a pass over the sources, as package queue has it.
	passTimeout = 15 * time.Second
)

// stepTime is how long a step takes on a machine, and what bounds it.
type stepTime struct {
	expected time.Duration
	says     string
	deadline func(rules.Condition) time.Duration
}

func rebootDeadline(c rules.Condition) time.Duration { return c.Policy.RebootDeadline }
func remedyDeadline(c rules.Condition) time.Duration { return c.Policy.RemedyDeadline }
func drainDeadline(c rules.Condition) time.Duration  { return c.Policy.DrainDeadline }

// stepTimes are assumptions about machines with eight GPUs. They move no time that Aegis or its rules wait.
func stepTimes() map[string]stepTime {
	return map[string]stepTime{
		"diagnose":    {30 * time.Second, "The Job starts and reads logs, PCI devices and `nvidia-smi`.", remedyDeadline},
		"drain":       {time.Minute, "The pods end within 30 seconds, and no disruption budget holds them.", drainDeadline},
		"draingpu":    {time.Minute, "The pods end within 30 seconds, and no disruption budget holds them.", drainDeadline},
		"reset":       {time.Minute, "", remedyDeadline},
		"remedy":      {time.Minute, "", remedyDeadline},
		"repair":      {2 * time.Minute, "GPFS starts or mounts.", remedyDeadline},
		"restartpod":  {time.Minute, "The new pod is ready.", remedyDeadline},
		"reboot":      {6 * time.Minute, "A server with eight GPUs: firmware, kernel, kubelet.", rebootDeadline},
		"shutdown":    {time.Minute, "", rebootDeadline},
		"healthcheck": {time.Minute, "Without a test under load.", func(c rules.Condition) time.Duration { return c.Policy.HealthcheckDeadline }},
		"uncordon":    {5 * time.Second, "", func(rules.Condition) time.Duration { return passTimeout }},
	}
}

// evidence is what an expression makes an alert wait beside its `for`.
type evidence struct {
	// window is how long a fault lasts before the expression holds, and pin is where the rule says so.
	window time.Duration
	pin    string
	// tail is for how long the expression goes on to hold after the event, whatever is done, and tailPin where it says so.
	tail    time.Duration
	tailPin string
}

// evidences lists the conditions whose expressions look back.
func evidences() map[string]evidence {
	return map[string]evidence{
		"GpuHung":              {window: 5 * time.Minute, pin: "min_over_time(DCGM_FI_DEV_GPU_UTIL[5m])"},
		"IBLost":               {window: 3 * time.Minute, pin: `last_over_time(node_infiniband_info{node!="",exported_node=""}[3m])`},
		"GpfsMountLost":        {window: 3 * time.Minute, pin: `last_over_time(node_filesystem_size_bytes{fstype="gpfs"}[3m])`},
		"NodeInhibitAll":       {window: 3 * time.Minute, pin: `last_over_time(kube_node_labels{label_aegis_io_disable="true",node!="",exported_node=""}[3m])`},
		"CPUPressure":          {window: 5 * time.Minute, pin: `rate(node_cpu_seconds_total{mode=~"idle|iowait",node!="",exported_node=""}[5m])`},
		"HighLoad":             {window: 15 * time.Minute, pin: "node_load15"},
		"NodeFrequentDown":     {tail: 2 * time.Hour, tailPin: "[2h:1m]"},
		"GpuNvlinkError":       {tail: 10 * time.Minute, tailPin: "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL[10m]"},
		"GpuErrResetRequired":  {tail: 10 * time.Minute, tailPin: "[10m]"},
		"XIDHWSystemErr":       {tail: 10 * time.Minute, tailPin: "[10m]"},
		"GpuXidRecoveryAction": {tail: 10 * time.Minute, tailPin: "aegis:gpu_xid_new"},
	}
}

// evidenceOf returns what the expression of the rule waits. Alerts of an XID share a recorded series, whose windows a test holds.
func evidenceOf(r shippedRule) evidence {
	if e, known := evidences()[r.Alert]; known {
		return e
	}
	if strings.Contains(r.Expr, "aegis:gpu_xid_new") {
		return evidence{tail: 10 * time.Minute, tailPin: "aegis:gpu_xid_new"}
	}
	return evidence{}
}

// named are the conditions that the page tells of one by one.
func named() []string {
	return []string{
		"NodeNotReady", "NodeCordon", "NodeFrequentDown", "KubeletFailedCreatePodContainer", "CPUPressure", "CpuUnhealthy", "DiskUnhealthy",
		"GpfsDown", "GpfsMountLost", "GpfsInactive", "GpuHung", "GpuDown", "XIDECCMemoryErr", "GpuNvlinkInactive", "IBDown", "IBLinkFrequentDown",
		"NetworkLinkFrequentDown", "ICETxTimeout", "MemoryPressure", "KubeletMemoryPressure", "KernelPanic", "HighLoad",
	}
}

// buys says for each named condition what its waiting is good for.
func buys() map[string]string {
	return map[string]string{
		"NodeNotReady":                    "Kubernetes has waited for a silent kubelet already. The `for` skips a kubelet that restarts; `grace` lets an upgrade of it end without a cordon, which Kubernetes' own taint makes cheap to wait for. `clearFor` is two rounds of scrape and evaluation.",
		"NodeCordon":                      "The `for` leaves cordons that Aegis lifts at once alone.",
		"NodeFrequentDown":                "Three losses within two hours are the fault, and two hours without one the proof.",
		"KubeletFailedCreatePodContainer": "The `for` tells a kubelet that fails from a rollout of a broken image, which people mend.",
		"CPUPressure":                     "Load comes and goes: only load that lasts keeps new pods away. `clearFor` keeps the cordon from flapping.",
		"CpuUnhealthy":                    "The `for` asks for two scrapes; `confirmFor` for five minutes of a critical sensor before anything is evicted.",
		"DiskUnhealthy":                   "The `for` skips a slot that is read while its disk is swapped; `confirmFor` asks for ten minutes before anything is evicted.",
		"GpfsDown":                        "The `for` asks for two scrapes; `confirmFor` leaves three minutes to an administrator who restarts GPFS.",
		"GpfsMountLost":                   "The window bridges missed scrapes, and the `for` leaves GpfsDown the first word; `confirmFor` leaves five minutes to a remount on purpose.",
		"GpfsInactive":                    "A daemon that starts arbitrates for minutes: `confirmFor` asks for ten of them.",
		"GpuHung":                         "A job at a barrier looks the same. Window and `for` isolate after ten minutes, which disturbs nobody; `confirmFor` asks for 30 minutes, and the window, before the job is evicted: longer than PyTorch waits for a collective by default.",
		"GpuDown":                         "The `for` asks for three scrapes without the GPU; `confirmFor` outlasts a reset by hand and a reload of the driver. XID 79 of a GPU that falls off the bus is faster: it waits for nothing.",
		"XIDECCMemoryErr":                 "An XID is certain at once. Fifteen minutes of the alert and `clearFor` are 20 minutes without a new one: a GPU whose error comes back mostly shows it by then.",
		"GpuNvlinkInactive":               "sichek's finding holds for three minutes after one bad pass, and the fabric manager needs minutes to train links: a shorter `for` would act on one pass.",
		"IBDown":                          "The `for` skips a link that retrains; `confirmFor` outlasts the boot of a switch.",
		"IBLinkFrequentDown":              "Four losses within two hours are the fault.",
		"NetworkLinkFrequentDown":         "Four losses within two hours are the fault.",
		"ICETxTimeout":                    "Three timeouts within an hour are the fault: the driver recovers from one by itself.",
		"MemoryPressure":                  "The `for` skips a spike; the kubelet keeps pods away meanwhile. `clearFor` keeps the cordon from flapping.",
		"KubeletMemoryPressure":           "The `for` skips a spike: dropping the cache slows every job on the node.",
		"KernelPanic":                     "The record of the crash is certain at once.",
		"HighLoad":                        "It is only noted, and the load average of 15 minutes lags by itself.",
	}
}

// shippedRule is an alert of the chart with the times that Prometheus waits for it.
type shippedRule struct {
	Alert, Expr   string
	For           model.Duration
	KeepFiringFor model.Duration `yaml:"keep_firing_for"`
	interval      time.Duration
	records       []string
}

// shippedRules returns the alerts of the chart by name.
func shippedRules(t *testing.T) map[string]shippedRule {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, rulesDir, "*.yaml"))
	require.NoError(t, err)
	all := make(map[string]shippedRule)
	for _, file := range files {
		m, err := readYAML[struct {
			Spec struct {
				Groups []struct {
					Interval model.Duration
					Rules    []shippedRule
				}
			}
		}](file)
		require.NoError(t, err)
		for _, g := range m.Spec.Groups {
			var records []string
			for _, r := range g.Rules {
				if r.Alert == "" {
					records = append(records, r.Expr)
				}
				r.interval, r.records = max(time.Duration(g.Interval), 0), records
				if r.interval == 0 {
					r.interval = assumedInterval
				}
				all[r.Alert] = r
			}
		}
	}
	return all
}

// budget is the time that a stage may take: how long it is expected to take, and the deadline after which it has failed. A stage without a
// time has a text instead.
type budget struct {
	expected, deadline time.Duration
	text               string
}

func (b budget) String() string {
	switch {
	case b.text != "" && b.deadline > 0:
		return b.text + " / " + short(b.deadline)
	case b.text != "":
		return b.text
	case b.deadline <= b.expected:
		return short(b.expected)
	}
	return short(b.expected) + " / " + short(b.deadline)
}

// short writes a duration without what is zero.
func short(d time.Duration) string {
	text := d.Round(time.Second).String()
	text = strings.TrimSuffix(text, "0s")
	if !strings.HasSuffix(text, "m") {
		text = d.Round(time.Second).String()
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// course is the way of a condition: how long each stage takes, after the one before.
type repairCourse struct {
	name                                             string
	alert, cordon, empty, repaired, proven, returned budget
	total                                            string
	window, wait, confirm, grace, tail, keep, clear  time.Duration
}

// noStage stands for a stage that the procedure does not have.
var noStage = budget{text: "–"}

// timer adds up a course.
type timer struct {
	condition rules.Condition
	rule      shippedRule
	evidence  evidence
	groupWait time.Duration
	poll      time.Duration
	// now and late are when the last stage ended, counted from the fault: as expected, and at the latest.
	now, late time.Duration
	people    bool
	workload  bool
}

// stage ends one that takes until the given times, and returns what it took.
func (c *timer) stage(now, late time.Duration) budget {
	b := budget{expected: max(now-c.now, 0), deadline: max(late-c.late, 0)}
	c.now, c.late = max(now, c.now), max(late, c.late)
	return b
}

// alert is from the fault until the alert fires.
func (c *timer) alert() budget {
	before := c.evidence.window
	if c.condition.Name == "NodeNotReady" {
		before += nodeGrace
	}
	at := before + assumedInterval + c.rule.interval + time.Duration(c.rule.For)
	return c.stage(at, at)
}

// cordon is from the alert until the node takes no more pods.
func (c *timer) cordon(steps []string) budget {
	if !slices.Contains(steps, "cordon") {
		return noStage
	}
	wait := c.groupWait
	if c.condition.Name == "NodeNotReady" {
		wait += c.condition.Policy.Grace
	}
	at := c.now + wait + passTimeout
	return c.stage(at, at)
}

// walk goes through the steps of the plan up to the stage's last action. Steps of another stage are passed over.
func (c *timer) walk(steps []string, of ...string) (found bool) {
	for _, step := range steps {
		action, _, _ := strings.Cut(step, " ")
		if !slices.Contains(of, action) {
			continue
		}
		took := stepTimes()[action]
		c.now, c.late, found = c.now+took.expected, c.late+took.deadline(c.condition), true
	}
	return found
}

// empty is from the cordon until no workload is left that the policy evicts. It waits for confirmFor.
func (c *timer) empty(steps []string, alert time.Duration) budget {
	now, late := c.now, c.late
	c.walk(steps, "diagnose")
	confirmed := alert - time.Duration(c.rule.For) + c.condition.Policy.ConfirmFor
	c.now, c.late = max(c.now, confirmed), max(c.late, confirmed)
	if c.condition.Policy.ConfirmFor > 0 {
		c.now, c.late = c.now+sop.DefaultTiming().Hold, c.late+sop.DefaultTiming().Hold
	}
	if slices.Contains(steps, "waitidle") {
		c.late += c.condition.Policy.DrainDeadline
		c.workload = true
		return budget{text: "jobs end", deadline: c.late - late}
	}
	if !c.walk(steps, "drain", "draingpu") {
		return noStage
	}
	return budget{expected: c.now - now, deadline: c.late - late}
}

// repaired is until the act that mends the fault has ended.
func (c *timer) repaired(steps []string) budget {
	now, late := c.now, c.late
	if c.walk(steps, "reset", "remedy", "repair", "restartpod", "reboot", "shutdown") {
		b := budget{expected: c.now - now, deadline: c.late - late}
		if slices.ContainsFunc(steps, handsOver) {
			c.people = true
		}
		return b
	}
	switch {
	case slices.ContainsFunc(steps, handsOver):
		c.people = true
		return budget{text: "people"}
	case c.condition.Name == "KernelPanic":
		return budget{text: "has booted"}
	case slices.Contains(steps, "note"):
		return noStage
	case slices.Contains(steps, "cordon"), c.condition.Name == "NodeNotReady":
		return budget{text: "by itself"}
	}
	return noStage
}

func handsOver(step string) bool { return strings.HasPrefix(step, "handover") }

var verifyPattern = regexp.MustCompile(`^(?:verify|wait) \((?:gone|ready) for \S+, within (\S+)\)$`)

// proven is until the fault is gone at its source for long enough, and the healthcheck has passed.
func (c *timer) proven(t *testing.T, steps []string) budget {
	t.Helper()
	if c.people || slices.Contains(steps, "note") {
		return noStage
	}
	now, late := c.now, c.late
	for _, step := range steps {
		within := verifyPattern.FindStringSubmatch(step)
		if within == nil {
			continue
		}
		deadline, err := time.ParseDuration(within[1])
		require.NoError(t, err)
		gone := c.now + assumedInterval + c.rule.interval
		if c.condition.Name == "NodeNotReady" {
			gone = c.now + c.poll // It looks at the Node.
		}
		gone = max(gone, c.evidence.window+c.tail()+c.rule.interval)
		c.now, c.late = gone+c.condition.Policy.ClearFor+2*c.poll, c.late+deadline
	}
	if c.condition.Name == "NodeNotReady" {
		c.walk(steps, "diagnose")
	}
	c.walk(steps, "healthcheck")
	return budget{expected: c.now - now, deadline: c.late - late}
}

// tail is until when, counted from the fault, the alert fires whatever is done.
func (c *timer) tail() time.Duration {
	if c.evidence.tail == 0 && c.rule.KeepFiringFor == 0 {
		return 0
	}
	return assumedInterval + c.evidence.tail + time.Duration(c.rule.KeepFiringFor)
}

// courseOf adds up how long the repair of the condition takes when its first plan goes well.
func courseOf(t *testing.T, g *generator, r shippedRule, c rules.Condition, groupWait time.Duration) repairCourse {
	t.Helper()
	steps := g.plans(t, c)[0].steps
	if c.Name == "NodeNotReady" {
		// One that is back within grace is never cordoned. This is the way of the others.
		steps = []string{"cordon", fmt.Sprintf("wait (ready for %s, within %s)", c.Policy.ClearFor, c.Policy.HandOverAfter), "diagnose", "healthcheck", "uncordon"}
	}
	timer := &timer{condition: c, rule: r, evidence: evidenceOf(r), groupWait: groupWait, poll: sop.DefaultTiming().Poll}
	course := repairCourse{
		name: c.Name, window: timer.evidence.window, wait: time.Duration(r.For), confirm: c.Policy.ConfirmFor, tail: timer.evidence.tail,
		keep: time.Duration(r.KeepFiringFor),
	}
	if slices.ContainsFunc(steps, verifyPattern.MatchString) {
		course.clear = c.Policy.ClearFor
	}
	course.alert = timer.alert()
	alert := timer.now
	course.cordon = timer.cordon(steps)
	if c.Name == "NodeNotReady" {
		course.empty, course.grace = noStage, c.Policy.Grace
	} else {
		course.empty = timer.empty(steps, alert)
	}
	course.repaired = timer.repaired(steps)
	course.proven, course.returned = timer.proven(t, steps), noStage
	now, late := timer.now, timer.late
	if !timer.people && timer.walk(steps, "uncordon") {
		course.returned = budget{expected: timer.now - now, deadline: timer.late - late}
	}
	course.total = short(timer.now)
	if timer.workload || course.repaired.text == "by itself" {
		course.total += " + " + map[bool]string{true: "jobs", false: "fault"}[timer.workload]
	}
	if timer.people {
		course.total += ", then people"
	}
	return course
}

// readmeGroupWait returns group_wait of the route that the README recommends.
func readmeGroupWait(t *testing.T) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, "README.md"))
	require.NoError(t, err)
	found := regexp.MustCompile(`group_wait: (\S+)`).FindSubmatch(raw)
	require.NotNil(t, found)
	d, err := time.ParseDuration(string(found[1]))
	require.NoError(t, err)
	return d
}

// courses returns the way of each condition, in the order of the catalogue.
func courses(t *testing.T) []repairCourse {
	t.Helper()
	g, shipped, groupWait := newGenerator(t), shippedRules(t), readmeGroupWait(t)
	var all []repairCourse
	for _, c := range g.conditions {
		r, found := shipped[c.Name]
		require.True(t, found, "no rule raises %s", c.Name)
		e := evidenceOf(r)
		text := r.Expr + strings.Join(r.records, "\n")
		require.Contains(t, text, e.pin, "the rule of %s no longer looks back by %s", c.Name, e.window)
		require.Contains(t, text, e.tailPin, "the rule of %s no longer fires for %s after its event", c.Name, e.tail)
		all = append(all, courseOf(t, g, r, c, groupWait))
	}
	return all
}

// measurement is what e2e/cmd/repairtimes has measured.
type measurement struct {
	Date, Hardware string
	BootTime       string `yaml:"bootTime"`
	Conditions     map[string]map[string]string
}

func stageNames() []string {
	return []string{"alert", "cordon", "empty", "repaired", "proven", "returned"}
}

func (c repairCourse) stages() []budget {
	return []budget{c.alert, c.cordon, c.empty, c.repaired, c.proven, c.returned}
}

// at returns how long after the fault the condition reached each stage when it was measured.
func (m measurement) at(t *testing.T, condition, stage string) (time.Duration, bool) {
	t.Helper()
	text, found := m.Conditions[condition][stage]
	if !found {
		return 0, false
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err, "%s %s", condition, stage)
	return d, true
}

// took returns how long each stage took, by name.
func (m measurement) took(t *testing.T, condition string) map[string]time.Duration {
	t.Helper()
	took := make(map[string]time.Duration)
	var before time.Duration
	for _, stage := range stageNames() {
		if at, found := m.at(t, condition, stage); found {
			took[stage], before = at-before, at
		}
	}
	return took
}

// repairTimes writes the generated part of the page.
func repairTimes(t *testing.T, all []repairCourse, m measurement) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n## The 22 conditions\n")
	head := "| condition | fault to alert | to cordon | to empty | to repaired | to proven | to returned | in all |\n|---|---|---|---|---|---|---|---|\n"
	row := func(c repairCourse) {
		fmt.Fprintf(&b, "| [%[1]s](conditions/%[1]s.md) |", c.name)
		for _, s := range c.stages() {
			fmt.Fprintf(&b, " %s |", s)
		}
		fmt.Fprintf(&b, " %s |\n", c.total)
	}
	b.WriteString(head)
	of := make(map[string]repairCourse)
	for _, c := range all {
		of[c.name] = c
	}
	for _, name := range named() {
		row(of[name])
	}
	b.WriteString("\n## What each minute buys\n| condition | waits | which buys |\n|---|---|---|\n")
	for _, name := range named() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, of[name].waits(), buys()[name])
	}
	writeMeasured(t, &b, m)
	b.WriteString("\n## All other conditions\n" + head)
	for _, c := range all {
		if !slices.Contains(named(), c.name) {
			row(c)
		}
	}
	b.WriteString("\n## What is assumed of the machines\n| step | expected | because |\n|---|---|---|\n")
	for _, action := range slices.Sorted(maps.Keys(stepTimes())) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", action, short(stepTimes()[action].expected), stepTimes()[action].says)
	}
	return b.String() + "\n"
}

// waits lists the times that the condition waits on purpose.
func (c repairCourse) waits() string {
	var parts []string
	for _, p := range []struct {
		name string
		d    time.Duration
	}{
		{"window", c.window},
		{"`for`", c.wait},
		{"`grace`", c.grace},
		{"`confirmFor`", c.confirm},
		{"alert outlasts the event by", c.tail + c.keep},
		{"`clearFor`", c.clear},
	} {
		if p.d > 0 {
			parts = append(parts, p.name+" "+short(p.d))
		}
	}
	return strings.Join(parts, ", ")
}

func writeMeasured(t *testing.T, b *strings.Builder, m measurement) {
	t.Helper()
	boot, err := time.ParseDuration(m.BootTime)
	require.NoError(t, err)
	fmt.Fprintf(b, "\n## Measured\nOn %s, on %s, with the rules, intervals and policies that ship, around simulated nodes that boot within %s.", m.Date, m.Hardware, short(boot))
	b.WriteString(" `make times` measures anew, and fails when a stage takes longer than is expected above, together with what the stages before it have left.\n\n")
	b.WriteString("| condition | fault to alert | to cordon | to empty | to repaired | to proven | to returned | in all |\n|---|---|---|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(m.Conditions)) {
		took := m.took(t, name)
		fmt.Fprintf(b, "| [%[1]s](conditions/%[1]s.md) |", name)
		for _, stage := range stageNames() {
			text := "–"
			if d, found := took[stage]; found {
				text = short(d)
			}
			fmt.Fprintf(b, " %s |", text)
		}
		total, _ := m.at(t, name, "returned")
		fmt.Fprintf(b, " %s |\n", short(total))
	}
}

// The page of the times is computed from the rules, the catalogue and the procedures. Run the test with -update to write it anew.
func TestTimeToRepairIsDocumented(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(repairTimePage)
	require.NoError(t, err)
	head, rest, found := strings.Cut(string(raw), repairTimeBegin)
	require.True(t, found)
	_, tail, found := strings.Cut(rest, repairTimeEnd)
	require.True(t, found)
	m, err := readYAML[measurement](measuredTimes)
	require.NoError(t, err)
	want := head + repairTimeBegin + repairTimes(t, courses(t), m) + repairTimeEnd + tail
	if *update {
		require.NoError(t, os.WriteFile(repairTimePage, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(raw), "run go test ./cmd -run TestTimeToRepairIsDocumented -update")
}

func TestEachNamedConditionSaysWhatItsTimeBuys(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, named(), slices.Collect(maps.Keys(buys())))
	require.Len(t, named(), 22)
	for name, text := range buys() {
		require.Regexp(t, `[.]$`, text, name)
	}
}

// What was measured is within what the page lets a reader expect.
func TestMeasuredTimesAreWithinTheBudget(t *testing.T) {
	t.Parallel()
	m, err := readYAML[measurement](measuredTimes)
	require.NoError(t, err)
	require.NotEmpty(t, m.Conditions)
	of := make(map[string]repairCourse)
	for _, c := range courses(t) {
		of[c.name] = c
	}
	for name := range m.Conditions {
		c, found := of[name]
		require.True(t, found, name)
		var by time.Duration
		took := m.took(t, name)
		for i, stage := range stageNames() {
			b := c.stages()[i]
			by += b.expected
			if at, reached := m.at(t, name, stage); reached && b.text == "" {
				// A stage may take what one before it has left.
				require.True(t, took[stage] <= b.expected || at <= by, "%s took %s to %s, expected is %s", name, took[stage], stage, b.expected)
			}
		}
	}
}

// clearFor is at least two rounds of scrape and evaluation, so that one that is missed proves nothing, and no more than a few but where a
// cordon would flap.
func TestClearForFollowsTheRules(t *testing.T) {
	t.Parallel()
	flaps := []string{"CPUPressure", "MemoryPressure", "KubeletMemoryPressure", "DiskPressure"}
	shipped := shippedRules(t)
	for _, c := range newGenerator(t).conditions {
		rounds := 2 * (assumedInterval + shipped[c.Name].interval)
		require.GreaterOrEqual(t, c.Policy.ClearFor, rounds, c.Name)
		if !slices.Contains(flaps, c.Name) {
			require.LessOrEqual(t, c.Policy.ClearFor, 5*time.Minute, c.Name)
		}
	}
}
