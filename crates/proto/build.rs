//! Compiles the .proto files without protoc: protox parses, prost generates.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["kv", "auth", "rpc", "lease", "membership", "election", "lock", "health", "raft"]
        .map(|name| format!("proto/{name}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=CARGO_FEATURE_CLIENT");
    let descriptors = protox::compile(&files, ["proto"])?;
    let with_client = std::env::var_os("CARGO_FEATURE_CLIENT").is_some();
    if with_client {
        tonic_prost_build::configure().build_server(false).build_client(true).compile_fds(descriptors)?;
    } else {
        prost_build::Config::new().compile_fds(descriptors)?;
    }
    Ok(())
}
