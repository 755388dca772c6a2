//! Are docs/configuration.md and the example of docs/operating.md true, and is the file that the service is installed with right?

use std::path::Path;

use paragpu::config::{Config, Settings};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rows of the table below a heading, or of the table with a row for this key.
fn defaults(document: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let key = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((key.to_owned(), cells.get(1)?.trim_matches('`').to_owned()))
    };
    document.lines().filter(|line| line.starts_with("| `")).filter_map(row).collect()
}

#[test]
fn the_example_is_right_and_shows_every_kind_of_table() {
    let document = read("docs/configuration.md");
    let example = document.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let config = Config::parse(example).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((config.devices.len(), config.vgpus.len()), (2, 3));
    assert_eq!(config.sandbox.devices.len(), 1);
    assert_eq!(config.vgpus[2].settings.limits.contexts, 16);
}

#[test]
fn the_operators_guide_configures_four_vgpus() {
    let document = read("docs/operating.md");
    let example = document.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let config = Config::parse(example).unwrap_or_else(|problems| panic!("{problems}"));
    let names: Vec<&str> = config.vgpus.iter().map(|vgpu| vgpu.name.as_str()).collect();
    assert_eq!(names, ["web", "train", "render", "guest"]);
}

#[test]
fn the_services_file_is_right_also_with_what_is_commented_out() {
    let text = read("resources/paragpud.toml");
    Config::parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    let whole: String = text
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n"
        })
        .collect();
    let config = Config::parse(&whole).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.metrics.is_some() && config.vgpus.len() == 1);
    let service = read("resources/paragpud.service");
    assert!(service.contains("--config /etc/paragpu/paragpud.toml") && service.contains("ExecReload="));
}

#[test]
fn every_setting_is_in_the_document_with_its_default() {
    let document = defaults(&read("docs/configuration.md"));
    let settings = Settings::default().to_json();
    let mut flat: Vec<(String, serde_json::Value)> = Vec::new();
    for (key, value) in settings {
        match value {
            serde_json::Value::Object(table) => flat.extend(table),
            value => flat.push((key, value)),
        }
    }
    for (key, value) in &flat {
        let documented = document.iter().find(|(found, _)| found == key);
        let documented = &documented.unwrap_or_else(|| panic!("{key} is not in the document")).1;
        let value = value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string());
        assert_eq!(*documented, value, "{key}");
    }
    // And nothing that does not exist.
    for key in document.iter().map(|(key, _)| key) {
        let text = format!(
            "{key} = 1\n[[vgpu]]\n{key} = 1\n[vgpu.limits]\n{key} = 1\n[vgpu.eviction]\n{key} = 1\n[[device]]\n{key} = 1\n[sandbox]\n{key} = 1"
        );
        let wrong = Config::parse(&text).map_or_else(|problems| problems.to_string(), |_| String::new());
        assert!(wrong.matches(&format!("{key}: unknown key")).count() < 6, "{key} does not exist: {wrong}");
    }
}
