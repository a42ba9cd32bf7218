package dashboard

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// JSON returns the dashboard as Grafana imports it.
func JSON() ([]byte, error) {
	b := dashboard.NewDashboardBuilder("Aegis"). //nolint:staticcheck // Every Grafana reads this schema, only the newest the other one.
							Uid("aegis").
							Description("How quickly and how well Aegis repairs the nodes, and what it waits for.").
							Tags([]string{"aegis", "gpu", "kubernetes"}).
							Tooltip(dashboard.DashboardCursorSyncCrosshair).
							Time("now-24h", "now").
							Refresh("1m").
							Timezone("browser").
							Variables(variables())
	for _, row := range Rows() {
		b.WithRow(dashboard.NewRowBuilder(row.Title))
		for _, p := range row.Panels {
			b.WithPanel(p.builder(row.Height))
		}
	}
	made, err := b.Build()
	if err != nil {
		return nil, fmt.Errorf("make the dashboard: %w", err)
	}
	for i := range made.Panels {
		id := uint32(i + 1) //nolint:gosec // There are dozens of panels.
		if row := made.Panels[i].RowPanel; row != nil {
			row.Id = id
			continue
		}
		made.Panels[i].Panel.Id = &id
	}
	text, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the dashboard: %w", err)
	}
	return append(text, '\n'), nil
}

// source is the data source that the variable names.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

func text(s string) dashboard.StringOrMap { return dashboard.StringOrMap{String: &s} }

func option(s, value string) dashboard.VariableOption {
	return dashboard.VariableOption{
		Text:  dashboard.StringOrArrayOfString{String: &s},
		Value: dashboard.StringOrArrayOfString{String: &value},
	}
}

// variables lets one dashboard serve many clusters. Without a label namespace, as outside of Kubernetes, All means the rest.
func variables() []cog.Builder[dashboard.VariableModel] {
	of := func(name, label, query string) *dashboard.QueryVariableBuilder {
		return dashboard.NewQueryVariableBuilder(name).Label(label).Query(text(query)).Datasource(source()).
			Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc).
			IncludeAll(true).AllValue(".*").Multi(true).Current(option("All", "$__all"))
	}
	return []cog.Builder[dashboard.VariableModel]{
		dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus"),
		of("namespace", "Namespace", "label_values(aegis_leader, namespace)"),
		of("job", "Job", `label_values(aegis_leader{namespace=~"$namespace"}, job)`),
		dashboard.NewIntervalVariableBuilder("window").Label("Window").Values(text("15m,1h,6h,1d,7d")).Current(option("1h", "1h")),
	}
}

func (p Panel) builder(height uint32) cog.Builder[dashboard.Panel] {
	switch p.Kind {
	case Stat:
		return p.stat(height)
	case Bars:
		return p.bars(height)
	case Table:
		return p.table(height)
	}
	return p.series(height)
}

func (p Panel) stat(height uint32) cog.Builder[dashboard.Panel] {
	b := stat.NewPanelBuilder().Title(p.Title).Description(p.About).Datasource(source()).Span(p.Width).Height(height).
		Unit(p.Unit).Targets(p.targets(true)).Thresholds(p.thresholds()).Mappings(p.mappings()).
		GraphMode(common.BigValueGraphModeNone).ColorMode(common.BigValueColorModeValue).
		ReduceOptions(lastValue())
	return b
}

func (p Panel) bars(height uint32) cog.Builder[dashboard.Panel] {
	b := bargauge.NewPanelBuilder().Title(p.Title).Description(p.About).Datasource(source()).Span(p.Width).Height(height).
		Unit(p.Unit).Min(0).Targets(p.targets(true)).Thresholds(p.thresholds()).
		DisplayMode(common.BarGaugeDisplayModeBasic).Orientation(common.VizOrientationHorizontal).
		ReduceOptions(lastValue())
	if p.Unit == share {
		b.Max(1)
	}
	return b
}

func (p Panel) table(height uint32) cog.Builder[dashboard.Panel] {
	names, columns := map[string]string{}, map[string]int{}
	b := table.NewPanelBuilder().Title(p.Title).Description(p.About).Datasource(source()).Span(p.Width).Height(height).
		Unit(p.Unit).Targets(p.targets(true)).Thresholds(p.thresholds()).CellHeight(common.TableCellHeightSm).
		Footer(common.NewTableFooterOptionsBuilder().Show(false).Reducer([]string{}))
	for i, q := range p.Queries {
		names["Value #"+refID(i)], columns["Value #"+refID(i)] = q.Legend, i+2
		if q.Unit != "" {
			b.OverrideByName(q.Legend, []dashboard.DynamicConfigValue{{Id: "unit", Value: q.Unit}})
		}
	}
	b.WithTransformation(dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}})
	b.WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
		"excludeByName": map[string]bool{"Time": true}, "renameByName": names, "indexByName": columns,
	}})
	return b
}

func (p Panel) series(height uint32) cog.Builder[dashboard.Panel] {
	b := timeseries.NewPanelBuilder().Title(p.Title).Description(p.About).Datasource(source()).Span(p.Width).Height(height).
		Unit(p.Unit).Min(0).Targets(p.targets(false)).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).
			ShowLegend(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)).
		LineWidth(1).FillOpacity(10)
	if p.Kind == Stack {
		b.FillOpacity(40).Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
	}
	fixed := colors(p.Queries[0].Legend)
	for _, name := range slices.Sorted(maps.Keys(fixed)) {
		b.OverrideByName(name, []dashboard.DynamicConfigValue{
			{Id: "color", Value: map[string]string{"mode": "fixed", "fixedColor": fixed[name]}},
		})
	}
	return b
}

// targets returns the queries, at the end of the shown time alone or over all of it.
func (p Panel) targets(instant bool) []cog.Builder[variants.Dataquery] {
	var list []cog.Builder[variants.Dataquery]
	for i, q := range p.Queries {
		b := prometheus.NewDataqueryBuilder().RefId(refID(i)).Datasource(source()).Expr(q.Expression())
		if instant {
			b.Instant()
		} else {
			b.Range()
		}
		if p.Kind == Table {
			b.Format(prometheus.PromQueryFormatTable)
		} else {
			b.LegendFormat(q.Legend)
		}
		list = append(list, b)
	}
	return list
}

func refID(i int) string { return string(rune('A' + i)) }

func lastValue() cog.Builder[common.ReduceDataOptions] {
	return common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})
}

// thresholds colors a value from bad over middling to good, in whichever direction that is.
func (p Panel) thresholds() cog.Builder[dashboard.ThresholdsConfig] {
	step := func(color string, from ...float64) dashboard.Threshold {
		t := dashboard.Threshold{Color: color}
		if len(from) > 0 {
			t.Value = &from[0]
		}
		return t
	}
	b := dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute)
	switch {
	case p.Good == 0 && p.Bad == 0:
		return b.Steps([]dashboard.Threshold{step("blue")})
	case p.Good > p.Bad:
		return b.Steps([]dashboard.Threshold{step("red"), step("orange", p.Bad), step("green", p.Good)})
	case p.Good == p.Bad:
		return b.Steps([]dashboard.Threshold{step("red"), step("green", p.Good)})
	}
	return b.Steps([]dashboard.Threshold{step("green"), step("orange", p.Good), step("red", p.Bad)})
}

func (p Panel) mappings() []dashboard.ValueMapping {
	if len(p.Names) == 0 {
		return nil
	}
	m := dashboard.NewValueMap()
	for value, name := range p.Names {
		m.Options[value] = dashboard.ValueMappingResult{Text: &name}
	}
	return []dashboard.ValueMapping{{ValueMap: m}}
}
