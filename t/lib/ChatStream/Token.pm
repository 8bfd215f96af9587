# SPDX-License-Identifier: Apache-2.0
package ChatStream::Token;

# A key, and the tokens it signs (JWS compact form): HS256, HS384, HS512 in Perl, RS*, PS*, ES256, ES384 and EdDSA by the openssl command.
#
#     my $key = ChatStream::Token->new('HS256', dir => $t->dir);      # a new secret or key pair, in files of that directory
#     $key->file;                                                     # for ChatStreamJWTKey: the secret, or the public PEM
#     my $token = $key->sign({ sub => 'anna', exp => time + 60 });
#     my $other = $key->sign({ sub => 'anna' }, kid => 'two');        # more members of the header
#     ChatStream::Token::write_jwks("$dir/keys.json", $key, ...);     # each with its kid

use strict;
use warnings;

use Digest::SHA ();
use File::Temp ();
use JSON::PP ();
use MIME::Base64 ();

my $made = 0;
my $json = JSON::PP->new->utf8->canonical;

# Options: dir; kid (for tokens and JWKS); secret (HS*: these bytes).
sub new
{
    my ($class, $alg, %options) = @_;
    my ($family, $bits) = $alg =~ /^(HS|RS|PS|ES)(256|384|512)$/ ? ($1, $2) : $alg eq 'EdDSA' ? ('Ed', 0) : die "no such algorithm: $alg\n";
    my $self = bless { alg => $alg, family => $family, bits => $bits, kid => $options{kid} }, $class;
    my $base = "$options{dir}/key-" . ++$made;
    if ($family eq 'HS') {
        $self->{secret} = $options{secret} // _random($bits / 8);
        $self->{file} = _write("$base.secret", $self->{secret});
        return $self;
    }
    my %kind = (
        RS => 'RSA -pkeyopt rsa_keygen_bits:2048',
        PS => 'RSA -pkeyopt rsa_keygen_bits:2048',
        ES => 'EC -pkeyopt ec_paramgen_curve:P-' . ($bits == 512 ? 521 : $bits),
        Ed => 'ED25519',
    );
    @$self{qw(private file)} = ("$base.key", "$base.pem");
    _run("openssl genpkey -algorithm $kind{$family} -out '$self->{private}'");
    _run("openssl pkey -in '$self->{private}' -pubout -out '$self->{file}'");
    # httpd may read it as www-data only in a child; nobody should.
    chmod 0600, $self->{private};
    return $self;
}

sub file { $_[0]{file} }
sub alg  { $_[0]{alg} }
sub kid  { $_[0]{kid} }

sub _run
{
    my ($command) = @_;
    my $out = `$command 2>/dev/null`;
    die "$command failed\n" if $?;
    return $out;
}

sub _random
{
    my ($bytes) = @_;
    open my $handle, '<:raw', '/dev/urandom' or die "/dev/urandom: $!\n";
    read($handle, my $random, $bytes) == $bytes or die "/dev/urandom\n";
    # No NUL and no line end: a text file holds it.
    $random =~ s/([\x00-\x20])/chr(ord($1) + 64)/ge;
    return $random;
}

sub _write
{
    my ($file, $bytes) = @_;
    open my $handle, '>:raw', $file or die "$file: $!\n";
    print $handle $bytes;
    close $handle or die "$file: $!\n";
    return $file;
}

sub base64url { return MIME::Base64::encode_base64url($_[0]) }

# ---- signing -----------------------------------------------------------------------------------------------------------

# `claims`: a hash, or the payload as bytes. `header`: more members of the header; undef takes one out.
sub sign
{
    my ($self, $claims, %header) = @_;
    my %head = (typ => 'JWT', alg => $self->{alg}, defined $self->{kid} ? (kid => $self->{kid}) : (), %header);
    delete $head{$_} for grep { !defined $head{$_} } keys %head;
    my $input = base64url($json->encode(\%head)) . '.' . base64url(ref $claims ? $json->encode($claims) : $claims);
    return "$input." . base64url($self->signature($input));
}

sub signature
{
    my ($self, $input) = @_;
    my $bits = $self->{bits};
    return Digest::SHA->can("hmac_sha$bits")->($input, $self->{secret}) if $self->{family} eq 'HS';
    my $file = File::Temp->new;
    print $file $input;
    close $file;
    return _run("openssl pkeyutl -sign -rawin -inkey '$self->{private}' -in '$file'") if $self->{family} eq 'Ed';
    my $pss = $self->{family} eq 'PS' ? '-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1' : '';
    my $signature = _run("openssl dgst -sha$bits -sign '$self->{private}' $pss -binary '$file'");
    return $self->{family} eq 'ES' ? _raw_of_der($signature, $bits == 512 ? 66 : $bits / 8) : $signature;
}

# SEQUENCE of two INTEGERs → both in `size` bytes, one behind the other.
sub _raw_of_der
{
    my ($der, $size) = @_;
    my ($at, $raw) = (ord(substr $der, 1, 1) & 0x80 ? 3 : 2, '');
    for (1 .. 2) {
        my $length = ord substr $der, $at + 1, 1;
        my $number = substr $der, $at + 2, $length;
        $at += 2 + $length;
        $number =~ s/^\0+//;
        $raw .= "\0" x ($size - length $number) . $number;
    }
    return $raw;
}

# A token that nobody signed.
sub unsigned
{
    my ($claims, %header) = @_;
    return base64url($json->encode({ alg => 'none', %header })) . '.' . base64url($json->encode($claims)) . '.';
}

# ---- JWKS --------------------------------------------------------------------------------------------------------------

sub jwk
{
    my ($self) = @_;
    my %jwk = (alg => $self->{alg}, use => 'sig', defined $self->{kid} ? (kid => $self->{kid}) : ());
    if ($self->{family} eq 'HS') {
        return { %jwk, kty => 'oct', k => base64url($self->{secret}) };
    }
    if ($self->{family} =~ /^[RP]S$/) {
        my ($modulus) = _run("openssl rsa -pubin -in '$self->{file}' -noout -modulus") =~ /^Modulus=([0-9A-F]+)/ or die "no modulus\n";
        return { %jwk, kty => 'RSA', n => base64url(pack 'H*', $modulus), e => 'AQAB' };
    }
    my $der = _run("openssl pkey -pubin -in '$self->{file}' -outform DER");
    if ($self->{family} eq 'Ed') {
        return { %jwk, kty => 'OKP', crv => 'Ed25519', x => base64url(substr $der, -32) };
    }
    my $size = $self->{bits} == 512 ? 66 : $self->{bits} / 8;
    my $point = substr $der, -2 * $size;
    return {
        %jwk, kty => 'EC', crv => 'P-' . ($self->{bits} == 512 ? 521 : $self->{bits}),
        x => base64url(substr $point, 0, $size), y => base64url(substr $point, $size),
    };
}

sub jwks { return $json->encode({ keys => [ map { $_->jwk } @_ ] }) }

sub write_jwks { my ($file, @keys) = @_; return _write($file, jwks(@keys)) }

1;
