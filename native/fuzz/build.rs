//! The same messages as the agent's.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "../../proto/tinderbox/agent/v1/agent.proto";
    println!("cargo:rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["../../proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
