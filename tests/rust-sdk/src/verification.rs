//! Two people verify each other by comparing emoji, through messages between devices.

use matrix_sdk::encryption::verification::SasVerification;

use crate::person::{Person, Result, ensure, equal, until};

/// Verifies; each then trusts the other's identity.
pub async fn verify(alice: &Person, bob: &Person) -> Result<()> {
    let (alices_id, bobs_id) = (alice.id()?, bob.id()?);
    let device_id = bob.client.device_id().ok_or("bob is logged in")?.to_owned();
    let device = until("alice to know bob's device", &[alice, bob], async || {
        Ok(alice.client.encryption().get_device(&bobs_id, &device_id).await?)
    })
    .await?;
    let asked = device.request_verification().await?;
    let flow = asked.flow_id().to_owned();
    let request = until("the request", &[bob], async || {
        Ok(bob.client.encryption().get_verification_request(&alices_id, &flow).await)
    })
    .await?;
    request.accept().await?;
    until("bob's consent", &[alice], async || Ok(asked.is_ready().then_some(()))).await?;
    let alices = asked.start_sas().await?.ok_or("alice can't begin")?;
    let bobs = until("the beginning", &[bob], async || {
        let found = bob.client.encryption().get_verification(&alices_id, &flow).await;
        Ok(found.and_then(matrix_sdk::encryption::verification::Verification::sas))
    })
    .await?;
    bobs.accept().await?;
    let ready = |sas: &SasVerification| sas.can_be_presented();
    until("the emoji", &[alice, bob], async || Ok((ready(&alices) && ready(&bobs)).then_some(()))).await?;
    let names = |sas: &SasVerification| sas.emoji().map(|emoji| emoji.map(|one| one.symbol));
    equal(&names(&alices), &names(&bobs))?;
    alices.confirm().await?;
    bobs.confirm().await?;
    until("the end", &[alice, bob], async || Ok((alices.is_done() && bobs.is_done()).then_some(()))).await?;
    for (one, other) in [(alice, &bobs_id), (bob, &alices_id)] {
        let identity = until("an identity", &[one], async || {
            let identity = one.client.encryption().get_user_identity(other).await?;
            Ok(identity.filter(matrix_sdk::encryption::identities::UserIdentity::is_verified))
        })
        .await?;
        ensure(identity.user_id() == other, || "another identity".to_owned())?;
    }
    Ok(())
}
